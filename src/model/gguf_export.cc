// What llama.cpp must be told of a model (gguf-py/gguf/constants.py), and what it cannot be told (src/models/).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/families/family.h"
#include "model/gguf_config.h"

namespace choir::model {
namespace {

// What a router does when a model is used: losses beside it do nothing then, but a word of balance may have numbers.
struct Use {
  std::string words;
  int numbers;

  Use(const std::string& expression, int experts) {
    const moe::Router router = moe::parse_router(expression);
    words = router.expression();
    words.resize(std::min(words.find(" + "), words.size()));
    numbers = router.state_size(experts);
  }
  bool operator==(const Use&) const = default;
};

bool routes_as_family(const Config& config, const LayerConfig& layer) {
  LayerConfig plain = layer;
  plain.router.clear();
  return Use(layer.router, layer.routed()) == Use(router_expression(config, plain), layer.routed());
}

using Kind = kernels::RopeSpec::Kind;
using Weights = moe::PublishedRouter::Weights;

// The first layer that has experts; null when none has.
const LayerConfig* first_mixture(const Config& config) {
  const auto found = std::ranges::find_if(config.layers, [](const LayerConfig& layer) { return !layer.dense(); });
  return found == config.layers.end() ? nullptr : &*found;
}

int leading_dense(const Config& config) {
  const auto found = std::ranges::find_if(config.layers, [](const LayerConfig& layer) { return !layer.dense(); });
  return static_cast<int>(found - config.layers.begin());
}

// Layers that differ where llama.cpp has one number for all, or that do what it does not know.
std::string reason_against_layers(const Config& config) {
  const LayerConfig* first = first_mixture(config);
  if (!first && family_of(config.family, "model").keys.any())
    return "no layer has experts, and llama.cpp wants some in this family";
  for (int l = 0; l < config.depth() && first; ++l) {
    const LayerConfig& layer = config.layers[static_cast<size_t>(l)];
    if (layer.dense()) continue;
    const auto differs = [&](const char* what, int here, int there) {
      return fmt::format("layer {} has {} {} where another has {}, and GGUF has one number for all", l, what, here,
                         there);
    };
    if (layer.experts != first->experts) return differs("experts", layer.experts, first->experts);
    if (layer.top_k != first->top_k) return differs("experts a token", layer.top_k, first->top_k);
    if (layer.expert_width != first->expert_width) return differs("width", layer.expert_width, first->expert_width);
    if (!layer.widths.empty()) return fmt::format("layer {} has experts of unequal width", l);
    if (layer.idle() > 0) return fmt::format("layer {} has experts without weights", l);
    if (!layer.router.empty() && !routes_as_family(config, layer))
      return fmt::format("layer {} has a router of its own: {}", l, layer.router);
    if (layer.skip_beta) return fmt::format("layer {} skips experts, and llama.cpp does not", l);
  }
  return {};
}

bool dense_in_front_alone(const Config& config) {
  const auto begin = config.layers.begin() + leading_dense(config);
  return std::all_of(begin, config.layers.end(), [](const LayerConfig& layer) { return !layer.dense(); });
}

std::string reason_against_window(const Config& config) {
  if (config.attention.window == 0 || config.attention.window >= config.max_positions) return {};
  if (config.family != "gpt_oss") return "llama.cpp has no sliding window for this family";
  for (size_t l = 0; l < config.layers.size(); ++l)
    if (config.layers[l].sees_all != (l % 2 == 1)) return "llama.cpp has the window in layers 0, 2, 4, ... alone";
  return {};
}

std::string reason_against_family(const Config& config, const std::string& architecture) {
  const auto& router = config.router;
  const bool normalised = router.weights == Weights::kNormalised;
  if (config.family == "gpt_oss" && config.activation.limit != 7)
    return fmt::format("llama.cpp clamps the experts of gpt-oss at 7, the model at {}", config.activation.limit);
  if (architecture == "phimoe") return "llama.cpp has RMS norms and a plain top-2 here in place of the sparse mixer";
  if ((architecture == "qwen2moe" || architecture == "olmoe") && normalised)
    return "llama.cpp does not renormalise the weights of this family, and norm_topk_prob is true";
  if (architecture == "qwen3moe" && !normalised)
    return "llama.cpp renormalises the weights of this family, and norm_topk_prob is false";
  if (config.is_latent() && config.latent.q_rank == 0 && config.depth() != 26 && config.depth() != 27)
    return "llama.cpp takes only 26 or 27 layers for a model without a query latent (q_lora_rank)";
  if (config.is_latent() && config.pairs != kernels::Pairs::kNeighbours)
    return "llama.cpp turns neighbours here (rope_interleave)";
  if (config.clip_qkv > 0) return "llama.cpp does not clip q, k and v (clip_qkv)";
  const bool whole = architecture == "olmoe" || architecture == "qwen2moe";
  if (whole && config.attention.heads * config.attention.head_width != config.width)
    return "llama.cpp wants heads that are together as wide as the model";
  if (architecture == "olmoe" && config.attention.kv_heads != config.attention.heads)
    return "llama.cpp wants as many key-value heads as heads";
  if (config.family == "deepseek_v2" && router.groups > 1)
    return "llama.cpp values a group by its two best experts, and this model by its best";
  return {};
}

std::string reason_against_rope(const Config& config) {
  if (config.rope.kind == Kind::kLongrope) return "rotary factors that change with the length are not written";
  if (config.rope.kind == Kind::kYarn && config.rope.attention_factor > 0) return "attention_factor is not written";
  if (config.rope.kind == Kind::kYarn && config.rope.mscale != config.rope.mscale_all_dim)
    return "mscale and mscale_all_dim differ, and GGUF has one number for both";
  return {};
}

// Puts the keys of one architecture.
class Writer {
 public:
  Writer(const Config& config, const Architecture& architecture, io::GgufHeader& header)
      : config_(config), architecture_(architecture), header_(header) {}

  void put() {
    header_.put("general.architecture", architecture_.name);
    sizes();
    attention();
    rope();
    if (const LayerConfig* mixture = first_mixture(config_)) experts(*mixture);
    if (config_.is_latent()) latent();
    if (config_.family == "granitemoe") multipliers();
    extension();
  }

 private:
  std::string key(const char* name) const { return std::string(architecture_.name) + "." + name; }
  void count(const char* name, int value) { header_.put(key(name), static_cast<uint32_t>(value)); }
  void number(const char* name, double value) { header_.put(key(name), static_cast<float>(value)); }

  void sizes() {
    count("block_count", config_.depth());
    count("context_length", config_.max_positions);
    count("embedding_length", config_.width);
    count("vocab_size", config_.vocab);
    const LayerConfig& first = config_.layers.front();
    count("feed_forward_length", first.dense() ? first.shared_width : first.expert_width);
    number("attention.layer_norm_rms_epsilon", config_.norm_epsilon);
  }

  void attention() {
    const auto& a = config_.attention;
    count("attention.head_count", a.heads);
    count("attention.head_count_kv", a.kv_heads);
    count("attention.key_length", a.head_width);
    count("attention.value_length", a.values());
    if (a.window > 0 && config_.family == "gpt_oss") count("attention.sliding_window", a.window);
  }

  void rope() {
    const auto& rope = config_.rope;
    count("rope.dimension_count", config_.rotary_width());
    number("rope.freq_base", rope.theta);
    if (rope.kind == Kind::kNone || rope.kind == Kind::kLlama3) return;  // llama3: vectors_of
    header_.put(key("rope.scaling.type"), rope.kind == Kind::kYarn ? "yarn" : "linear");
    number("rope.scaling.factor", rope.factor);
    if (rope.kind != Kind::kYarn) return;
    count("rope.scaling.original_context_length", rope.original_length);
    number("rope.scaling.yarn_beta_fast", rope.beta_fast);
    number("rope.scaling.yarn_beta_slow", rope.beta_slow);
    if (rope.mscale_all_dim > 0) number("rope.scaling.yarn_log_multiplier", rope.mscale_all_dim / 10);
  }

  void experts(const LayerConfig& layer) {
    count("expert_count", layer.experts);
    count("expert_used_count", layer.top_k);
    count("expert_feed_forward_length", layer.expert_width);
    if (layer.shared_width > 0) count("expert_shared_feed_forward_length", layer.shared_width);
  }

  void latent() {
    const LayerConfig& layer = *first_mixture(config_);
    const bool sigmoid = config_.router.score == moe::PublishedRouter::Score::kSigmoid;
    if (config_.latent.q_rank > 0) count("attention.q_lora_rank", config_.latent.q_rank);
    count("attention.kv_lora_rank", config_.latent.kv_rank);
    count("leading_dense_block_count", leading_dense(config_));
    count("expert_shared_count", layer.shared_width / layer.expert_width);
    number("expert_weights_scale", static_cast<double>(config_.router.scale));
    header_.put(key("expert_weights_norm"), config_.router.weights == Weights::kNormalised);
    count("expert_gating_func", sigmoid ? 2 : 1);
    if (config_.router.groups == 1) return;
    count("expert_group_count", config_.router.groups);
    count("expert_group_used_count", config_.router.keep);
  }

  void multipliers() {
    number("embedding_scale", static_cast<double>(config_.embedding_multiplier));
    number("residual_scale", static_cast<double>(config_.residual_multiplier));
    number("attention.scale", static_cast<double>(config_.attention.scale));
    number("logit_scale", static_cast<double>(config_.logit_divisor));
  }

  // The numbers that the experts had before pruning.
  void extension() {
    if (std::ranges::all_of(config_.layers, [](const LayerConfig& layer) { return layer.kept.empty(); })) return;
    nlohmann::json kept = nlohmann::json::array();
    for (const LayerConfig& layer : config_.layers) kept.push_back(layer.kept);
    header_.put(kExtensionKey, nlohmann::json{{"kept_experts", kept}}.dump());
  }

  const Config& config_;
  const Architecture& architecture_;
  io::GgufHeader& header_;
};

}  // namespace

std::string reason_against_gguf(const Config& config) {
  const Architecture* architecture = architecture_of(config.family);
  if (!architecture) return "llama.cpp does not know the family " + config.family;
  for (const std::string& reason : {reason_against_layers(config), reason_against_window(config),
                                    reason_against_family(config, architecture->name), reason_against_rope(config)})
    if (!reason.empty()) return reason;
  if (!config.is_latent() && first_mixture(config) && leading_dense(config) > 0)
    return "llama.cpp has experts in every layer of this family";
  if (!dense_in_front_alone(config) && first_mixture(config)) return "a dense layer stands behind one with experts";
  return {};
}

void put_config(const Config& config, io::GgufHeader& header) {
  CHOIR_CHECK(reason_against_gguf(config).empty(), reason_against_gguf(config));
  Writer(config, *architecture_of(config.family), header).put();
}

// Llama 3 stretches each frequency by a factor of its own, which llama.cpp reads from a tensor.
std::vector<GgufVector> vectors_of(const Config& config) {
  if (config.rope.kind != Kind::kLlama3) return {};
  kernels::RopeSpec plain;
  plain.theta = config.rope.theta;
  const auto base = kernels::rope_frequencies(plain, config.rotary_width(), 1);
  const auto stretched = kernels::rope_frequencies(config.rope, config.rotary_width(), 1);
  GgufVector factors{"rope_freqs.weight", {}};
  for (size_t i = 0; i < base.inverse.size(); ++i)
    factors.numbers.push_back(static_cast<float>(base.inverse[i] / stretched.inverse[i]));
  return {factors};
}

}  // namespace choir::model
