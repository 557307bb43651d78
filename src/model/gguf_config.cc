#include "model/gguf_config.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "model/families/family.h"

namespace choir::model {
namespace {

using io::GgufFile;
using io::Json;

constexpr int64_t kMostCount = int64_t{1} << 30;  // what the parser of config.json then narrows down

// Reads the keys of one architecture into the words of a config.json.
class Description {
 public:
  Description(const GgufFile& file, const Architecture& architecture)
      : file_(file), keys_(file.metadata()), architecture_(architecture), family_(*find_family(architecture.family)) {}

  Json make() {
    json_["model_type"] = architecture_.family;
    sizes();
    attention();
    rope();
    if (count("expert_count", 0) > 0) experts();
    if (is("deepseek2")) latent();
    if (is("granitemoe")) multipliers();
    tokens();
    extension();
    return json_;
  }

 private:
  bool is(std::string_view architecture) const { return architecture_.name == architecture; }
  bool is_family(std::string_view family) const { return architecture_.family == family; }
  std::string key(const char* name) const { return std::string(architecture_.name) + "." + name; }
  bool has(const char* name) const { return keys_.has(key(name)); }
  int64_t count(const char* name, std::optional<int64_t> fallback = {}) const {
    return keys_.get_int(key(name), 0, kMostCount, fallback);
  }
  // float in the file; in config.json the shortest decimal of that float
  double number(const char* name, std::optional<double> fallback = {}) const {
    return std::stod(fmt::format("{}", static_cast<float>(keys_.get_number(key(name), -1e30, 1e30, fallback))));
  }
  bool has_tensor(const char* name) const { return file_.find(name) != nullptr; }

  void sizes() {
    const io::Tensor* embedding = file_.find("token_embd.weight");
    if (!embedding || embedding->shape.size() != 2)
      base::input_error("no matrix token_embd.weight", file_.path(), "the file does not hold a whole model");
    json_["vocab_size"] = embedding->shape[0];
    json_["hidden_size"] = count("embedding_length");
    json_["num_hidden_layers"] = count("block_count") - count("nextn_predict_layers", 0);
    json_["max_position_embeddings"] = count("context_length");
    if (has("feed_forward_length")) json_["intermediate_size"] = count("feed_forward_length");
    json_["rms_norm_eps"] =
        number(is("phimoe") && has("attention.layer_norm_epsilon") ? "attention.layer_norm_epsilon"
                                                                   : "attention.layer_norm_rms_epsilon");
    json_["tie_word_embeddings"] = !has_tensor("output.weight");
    if (has_tensor("output.bias")) json_["lm_head_bias"] = true;
  }

  void attention() {
    const int64_t heads = count("attention.head_count");
    json_["num_attention_heads"] = heads;
    json_["num_key_value_heads"] = count("attention.head_count_kv", heads);
    if (has("attention.key_length") && !is("deepseek2")) json_["head_dim"] = count("attention.key_length");
    const bool bias = has_tensor("blk.0.attn_q.bias");
    json_[is_family("qwen2_moe") ? "qkv_bias" : "attention_bias"] = bias;
    json_["sliding_window"] = nullptr;
    if (has("attention.sliding_window") && count("attention.sliding_window") > 0)
      json_["sliding_window"] = count("attention.sliding_window");
    if (has("attention.clamp_kqv")) json_["clip_qkv"] = number("attention.clamp_kqv");
  }

  void rope() {
    json_["rope_theta"] = number("rope.freq_base", 10000);
    const std::string type = keys_.get_string(key("rope.scaling.type"), "none");
    if (has_tensor("rope_factors_long.weight")) return longrope();
    if (has_tensor("rope_freqs.weight")) return factors_of_frequencies();
    if (type == "none") return;
    Json scaling{{"factor", number("rope.scaling.factor")}};
    scaling["rope_type"] = scaling["type"] = type;
    if (type == "yarn") yarn(scaling);
    json_["rope_scaling"] = scaling;
  }

  // llama.cpp makes the factor of cos and sin itself; of DeepSeek it wants the multiplier of the softmax's scale.
  void yarn(Json& scaling) const {
    scaling["original_max_position_embeddings"] = count("rope.scaling.original_context_length");
    scaling["beta_fast"] = number("rope.scaling.yarn_beta_fast", 32);
    scaling["beta_slow"] = number("rope.scaling.yarn_beta_slow", 1);
    if (is("gpt-oss")) scaling["truncate"] = false;
    if (has("rope.scaling.yarn_log_multiplier"))
      scaling["mscale"] = scaling["mscale_all_dim"] = 10 * number("rope.scaling.yarn_log_multiplier");
  }

  Json vector(const char* name) const {
    const io::Tensor* t = file_.find(name);
    if (!t || t->type != tensor::DType::kF32 || t->elements() > 4096)
      base::input_error("no vector of F32", file_.path() + ": tensor " + name, "rotary factors are floats");
    Json list = Json::array();
    for (size_t i = 0; i < t->elements(); ++i) {
      float value;
      std::memcpy(&value, t->bytes.data() + i * sizeof value, sizeof value);
      list.push_back(value);
    }
    return list;
  }

  void longrope() {
    Json scaling{{"type", "longrope"},
                 {"short_factor", vector("rope_factors_short.weight")},
                 {"long_factor", vector("rope_factors_long.weight")},
                 {"original_max_position_embeddings", count("rope.scaling.original_context_length")}};
    if (has("rope.scaling.attn_factor"))
      scaling["short_mscale"] = scaling["long_mscale"] = number("rope.scaling.attn_factor");
    json_["rope_scaling"] = scaling;
  }

  // One factor for each frequency, whatever rule made them: a longrope that never switches and stretches nothing else.
  void factors_of_frequencies() {
    const Json factors = vector("rope_freqs.weight");
    json_["rope_scaling"] = {{"type", "longrope"},
                             {"short_factor", factors},
                             {"long_factor", factors},
                             {"attention_factor", 1},
                             {"original_max_position_embeddings", count("context_length")}};
  }

  void experts() {
    if (!family_.keys.any())
      base::input_error("experts in a family of dense layers", file_.path() + ": key \"" + key("expert_count") + "\"",
                        "the file does not hold the model that its keys describe");
    json_[family_.keys.experts] = count("expert_count");
    json_["num_experts_per_tok"] = count("expert_used_count");
    if (has("expert_feed_forward_length")) json_[family_.keys.width] = count("expert_feed_forward_length");
    if (is("qwen2moe")) {
      json_["norm_topk_prob"] = false;
      json_["shared_expert_intermediate_size"] =
          count("expert_shared_feed_forward_length", count("feed_forward_length"));
    }
    if (is("qwen3moe")) json_["norm_topk_prob"] = true;
    if (is("olmoe")) json_["norm_topk_prob"] = false;
  }

  void latent() {
    const int64_t rotary = count("rope.dimension_count");
    const bool absorbed = has("attention.key_length_mla");
    const int64_t key_width = count(absorbed ? "attention.key_length_mla" : "attention.key_length");
    json_["num_key_value_heads"] = json_["num_attention_heads"];  // the file may count those of the absorbed form
    json_["q_lora_rank"] = nullptr;
    if (has("attention.q_lora_rank") && count("attention.q_lora_rank") > 0)
      json_["q_lora_rank"] = count("attention.q_lora_rank");
    json_["kv_lora_rank"] = count("attention.kv_lora_rank");
    json_["qk_rope_head_dim"] = rotary;
    json_["qk_nope_head_dim"] = key_width - rotary;
    json_["v_head_dim"] = count(absorbed ? "attention.value_length_mla" : "attention.value_length");
    json_["first_k_dense_replace"] = count("leading_dense_block_count", 0);
    json_["n_shared_experts"] = count("expert_shared_count", 0);
    json_["routed_scaling_factor"] = number("expert_weights_scale", 1);
    json_["norm_topk_prob"] = keys_.get_bool(key("expert_weights_norm"), false);
    const bool third = is_family("deepseek_v3");
    const int64_t groups = count("expert_group_count", 1);
    json_["n_group"] = groups;
    json_["topk_group"] = count("expert_group_used_count", 1);
    json_["scoring_func"] = third ? "sigmoid" : "softmax";
    json_["topk_method"] = third ? "noaux_tc" : groups > 1 ? "group_limited_greedy" : "greedy";
  }

  void multipliers() {
    json_["embedding_multiplier"] = number("embedding_scale", 1);
    json_["residual_multiplier"] = number("residual_scale", 1);
    json_["attention_multiplier"] = number("attention.scale", 1);
    json_["logits_scaling"] = number("logit_scale", 1);
  }

  void tokens() {
    for (const auto& [ours, theirs] : {std::pair{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                       std::pair{"eos_token_id", "tokenizer.ggml.eos_token_id"}})
      if (keys_.has(theirs)) json_[ours] = keys_.get_int(theirs, 0, kMostCount);
  }

  // What Choir said of a model that it pruned.
  void extension() {
    if (!keys_.has(kExtensionKey)) return;
    const Json read = io::parse_json(keys_.get_string(kExtensionKey), keys_.place_of(*keys_.find(kExtensionKey)));
    if (read.is_object()) json_["choir"] = read;
  }

  const GgufFile& file_;
  const io::GgufMetadata& keys_;
  const Architecture& architecture_;
  const Family& family_;
  Json json_ = Json::object();
};

}  // namespace

const Architecture& architecture_of(const GgufFile& file) {
  const io::GgufMetadata& keys = file.metadata();
  const std::string name = keys.get_string("general.architecture");
  const GgufKind kind{name, keys.get_int(name + ".expert_count", 0, kMostCount, 0) > 0,
                      keys.get_int(name + ".expert_gating_func", 0, 99, 1) == 2};
  return architecture_of(kind, file.path() + ": general.architecture");
}

Json config_of_gguf(const GgufFile& file) { return Description(file, architecture_of(file)).make(); }

}  // namespace choir::model
