#include "model/families/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace choir::model {
namespace {

using io::Fields;
using io::Json;
using Kind = kernels::RopeSpec::Kind;

constexpr int kMostHeadWidth = 1024;
constexpr int kMostPositions = 1 << 30;

// One number for each pair of a head.
std::vector<double> factors(const Json& rope, const char* key, const std::string& where) {
  const auto found = rope.find(key);
  if (found == rope.end() || !found->is_array() || found->empty() || found->size() > kMostHeadWidth)
    base::input_error("not a list of factors", where + "." + key, "longrope has one for each pair of a head");
  std::vector<double> result;
  for (const Json& factor : *found) {
    if (!factor.is_number() || !(factor.get<double>() > 0) || factor.get<double>() > 1e9)
      base::input_error("not a positive number", where + "." + key, factor.dump());
    result.push_back(factor.get<double>());
  }
  return result;
}

void read_yarn(const Fields& rope, kernels::RopeSpec& spec) {
  spec.kind = Kind::kYarn;
  spec.factor = rope.get_number("factor", 1, 1e6);
  spec.beta_fast = rope.get_number("beta_fast", 1e-6, 1e6, 32);
  spec.beta_slow = rope.get_number("beta_slow", 1e-6, 1e6, 1);
  spec.mscale = rope.get_number("mscale", 0, 1e3, 0);
  spec.mscale_all_dim = rope.get_number("mscale_all_dim", 0, 1e3, 0);
  spec.truncate = rope.get_bool("truncate", true);
}

void read_longrope(const Json& json, const Fields& rope, const std::string& where, kernels::RopeSpec& spec) {
  spec.kind = Kind::kLongrope;
  spec.short_factor = factors(json, "short_factor", where);
  spec.long_factor = factors(json, "long_factor", where);
  spec.short_mscale = rope.get_number("short_mscale", 0, 1e3, 0);
  spec.long_mscale = rope.get_number("long_mscale", 0, 1e3, 0);
}

void read_llama3(const Fields& rope, kernels::RopeSpec& spec) {
  spec.kind = Kind::kLlama3;
  spec.factor = rope.get_number("factor", 1, 1e6);
  spec.low_freq_factor = rope.get_number("low_freq_factor", 1e-6, 1e6);
  spec.high_freq_factor = rope.get_number("high_freq_factor", 1e-6, 1e6);
  if (spec.high_freq_factor <= spec.low_freq_factor) spec.high_freq_factor = 0;  // refused by the caller
}

// The stretching of one object, rope_scaling or rope_parameters.
void read_stretch(const Json& json, const std::string& where, kernels::RopeSpec& spec) {
  const Fields rope(json, where);
  const std::string type = rope.get_string("rope_type", rope.get_string("type", "default"));
  if (type == "default") return;
  if (rope.has("attention_factor")) spec.attention_factor = rope.get_number("attention_factor", 1e-6, 1e6);
  if (rope.has("original_max_position_embeddings"))
    spec.original_length = static_cast<int>(rope.get_int("original_max_position_embeddings", 1, kMostPositions));
  if (type == "linear") {
    spec.kind = Kind::kLinear;
    spec.factor = rope.get_number("factor", 1, 1e6);
  } else if (type == "yarn") {
    read_yarn(rope, spec);
  } else if (type == "longrope" || type == "su") {  // the older name of the same
    read_longrope(json, rope, where, spec);
  } else if (type == "llama3") {
    read_llama3(rope, spec);
  } else {
    base::input_error("rotary scaling \"" + type + "\" is not known", where,
                      "known: default, linear, yarn, longrope, llama3");
  }
}

}  // namespace

Reader::Reader(const Json& json, const std::string& where, const Family& family, Config& config)
    : json_(json), fields_(json, where), where_(where), family_(family), config_(config) {}

template <class T>
void Reader::say(const char* key, T fallback) {
  if (!fields_.has(key)) config_.defaulted.push_back(fmt::format("{} = {}", key, fallback));
}

bool Reader::says(const char* key) const { return json_.contains(key); }

int Reader::count(const char* key) const { return static_cast<int>(fields_.get_int(key, 1, kMost)); }

int Reader::count(const char* key, int64_t fallback, int64_t least) {
  say(key, fallback);
  return static_cast<int>(fields_.get_int(key, least, kMost, fallback));
}

double Reader::number(const char* key, double most, double fallback) {
  say(key, fallback);
  return fields_.get_number(key, 0, most, fallback);
}

double Reader::multiplier(const char* key) {
  say(key, 1);
  return fields_.get_number(key, 1e-9, 1e9, 1);
}

bool Reader::flag(const char* key, bool fallback) {
  say(key, fallback);
  return fields_.get_bool(key, fallback);
}

std::vector<int64_t> Reader::list(const char* key) const {
  if (!fields_.has(key)) return {};
  const Json& array = json_[key];
  const std::string field = where_ + ": " + key;
  if (!array.is_array()) base::input_error("not a list", field, "write [ ... ] here");
  std::vector<int64_t> result;
  for (const Json& entry : array) {
    if (!entry.is_number_integer() || entry < 0 || entry > kMost)
      base::input_error("not a whole number from 0 on", field, entry.dump());
    result.push_back(entry.get<int64_t>());
  }
  return result;
}

void Reader::require(bool condition, const std::string& what) const {
  if (!condition) base::input_error(what, where_, "the configuration contradicts itself");
}

void Reader::refuse_flag(const char* key) const {
  if (fields_.get_bool(key, false))
    base::input_error(std::string(key) + " is true", where_ + ": " + key, "such models are not made here");
}

void Reader::size(double epsilon) {
  if (const std::string act = fields_.get_string("hidden_act", "silu"); act != "silu")
    base::input_error("unknown activation \"" + act + "\"", where_ + ": hidden_act", "known: silu");
  if (fields_.has("partial_rotary_factor") && fields_.get_number("partial_rotary_factor", 0, 1) != 1)
    base::input_error("only a part of each head turns", where_ + ": partial_rotary_factor", "it must be 1");
  config_.width = count("hidden_size");
  config_.vocab = static_cast<int>(fields_.get_int("vocab_size", 1, 1 << 24));
  config_.max_positions = static_cast<int>(fields_.get_int("max_position_embeddings", 1, kMostPositions, 32768));
  config_.norm_epsilon = number("rms_norm_eps", 1, epsilon);
  config_.tied = fields_.get_bool("tie_word_embeddings", false);
}

void Reader::attention(const Heads& heads) {
  auto& a = config_.attention;
  a.heads = count("num_attention_heads");
  a.kv_heads = count("num_key_value_heads", heads.kv_heads > 0 ? heads.kv_heads : a.heads);
  require(a.heads % a.kv_heads == 0, fmt::format("{} heads cannot share {} key-value heads", a.heads, a.kv_heads));
  if (!fields_.has("head_dim") && heads.head_width == 0)
    require(config_.width % a.heads == 0,
            fmt::format("hidden_size {} is no multiple of {} heads", config_.width, a.heads));
  a.head_width = static_cast<int>(fields_.get_int("head_dim", 1, kMost, std::max(1, config_.width / a.heads)));
  if (heads.head_width > 0) a.head_width = count("head_dim", heads.head_width);
  require(a.head_width % 2 == 0, fmt::format("head width {} is odd: RoPE turns pairs", a.head_width));
  require(a.head_width <= kMostHeadWidth && static_cast<int64_t>(a.heads) * a.head_width <= kMost,
          fmt::format("{} heads of width {}", a.heads, a.head_width));
}

// Of a query latent null says that there is none, as a missing key does not.
void Reader::latent_attention(int query_rank) {
  nn::LatentShape& latent = config_.latent;
  latent.heads = count("num_attention_heads");
  if (!says("q_lora_rank") || fields_.has("q_lora_rank")) latent.q_rank = count("q_lora_rank", query_rank);
  latent.kv_rank = count("kv_lora_rank", 512);
  latent.nope = count("qk_nope_head_dim", 128);
  latent.rotary = count("qk_rope_head_dim", 64);
  latent.value = count("v_head_dim", 128);
  require(latent.rotary % 2 == 0, fmt::format("qk_rope_head_dim {} is odd: RoPE turns pairs", latent.rotary));
  require(latent.key() <= kMostHeadWidth && latent.value <= kMostHeadWidth &&
              static_cast<int64_t>(latent.heads) * std::max(latent.key(), latent.value) <= kMost,
          fmt::format("{} heads of widths {} and {}", latent.heads, latent.key(), latent.value));
  config_.attention = {.heads = latent.heads,
                       .kv_heads = latent.heads,
                       .head_width = latent.key(),
                       .window = 0,
                       .value_width = latent.value};
}

// transformers 4.x writes rope_theta beside rope_scaling, 5.x writes both into rope_parameters.
void Reader::rope(std::optional<double> theta) {
  kernels::RopeSpec& spec = config_.rope;
  const bool five = fields_.has("rope_parameters");
  if (fields_.has("rope_scaling")) read_stretch(json_["rope_scaling"], where_ + ": rope_scaling", spec);
  if (five) read_stretch(json_["rope_parameters"], where_ + ": rope_parameters", spec);
  const bool inside = five && (json_["rope_parameters"].contains("rope_theta") || !fields_.has("rope_theta"));
  const Fields at = inside ? Fields(json_["rope_parameters"], where_ + ": rope_parameters") : fields_;
  if (!at.has("rope_theta") && theta) say("rope_theta", *theta);
  spec.theta = at.get_number("rope_theta", 0, 1e12, theta);
  require(spec.theta >= 1, "rope_theta must be 1 or more");
  if (spec.kind == Kind::kNone) return;
  if (spec.original_length == 0)
    spec.original_length =
        static_cast<int>(fields_.get_int("original_max_position_embeddings", 1, kMostPositions, config_.max_positions));
  require(spec.high_freq_factor > spec.low_freq_factor, "llama3: high_freq_factor must exceed low_freq_factor");
  if (spec.kind != Kind::kLongrope) return;
  const auto pairs = static_cast<size_t>(config_.rotary_width() / 2);
  require(spec.short_factor.size() == pairs && spec.long_factor.size() == pairs,
          fmt::format("longrope has {} and {} factors for {} pairs", spec.short_factor.size(), spec.long_factor.size(),
                      pairs));
  if (spec.original_length < config_.max_positions) spec.factor = config_.max_positions * 1.0 / spec.original_length;
}

int Reader::depth() const { return static_cast<int>(fields_.get_int("num_hidden_layers", 1, 4096)); }

void Reader::dense_layers(int width) {
  LayerConfig layer;
  layer.shared_width = width;
  config_.layers.assign(static_cast<size_t>(depth()), layer);
}

// The array of the extension block, one number for each layer, or the family's one number for all of them.
std::vector<int> Reader::per_layer(const PerLayer& asked, const std::vector<bool>& dense) {
  const bool second = asked.other && !fields_.has(asked.key) && fields_.has(asked.other);
  const char* key = second ? asked.other : asked.key;
  const int scalar = asked.fallback > 0 ? count(key, asked.fallback) : count(key);
  std::vector<int> result(dense.size(), scalar);
  const Json block = json_.value("choir", Json());
  if (block.is_object() && asked.other && !block.contains(key)) key = second ? asked.key : asked.other;
  if (block.is_object() && block.contains(key)) {
    const Json& array = block[key];
    const std::string field = where_ + ": choir." + key;
    if (!array.is_array() || array.size() != result.size())
      base::input_error("not an array of one number for each layer", field, fmt::format("{} layers", result.size()));
    for (size_t l = 0; l < result.size(); ++l) {
      if (!array[l].is_number_integer() || array[l] < (dense[l] ? 0 : 1) || array[l] > kMost)
        base::input_error("not a whole number from 1 on", fmt::format("{}[{}]", field, l), array[l].dump());
      result[l] = array[l].get<int>();
    }
  }
  for (size_t l = 0; l < result.size(); ++l)
    if (dense[l]) result[l] = 0;
  return result;
}

void Reader::layers(const Experts& asked) {
  std::vector<bool> dense = asked.dense;
  dense.resize(static_cast<size_t>(depth()));
  const Keys& keys = family_.keys;
  const auto experts = per_layer({keys.experts, keys.other_experts, asked.experts}, dense);
  const auto top_k = per_layer({keys.top_k, keys.other_top_k, asked.top_k}, dense);
  const auto widths = per_layer({keys.width, nullptr, asked.width}, dense);
  const bool any_dense = std::ranges::find(dense, true) != dense.end();
  const int dense_width = any_dense ? count("intermediate_size", asked.dense_width) : 0;
  for (size_t l = 0; l < dense.size(); ++l) {
    LayerConfig layer;
    layer.experts = experts[l];
    layer.top_k = top_k[l];
    layer.expert_width = widths[l];
    if (dense[l]) layer.shared_width = dense_width;
    config_.layers.push_back(layer);
  }
}

void Reader::share(int width, bool gate) {
  for (LayerConfig& layer : config_.layers) {
    if (layer.dense()) continue;
    layer.shared_width = width;
    layer.shared_gate = gate;
  }
}

// The width that the file says, whatever single layers have.
void Reader::share_experts(int width, int shared) {
  const int64_t all =
      static_cast<int64_t>(count("n_shared_experts", shared, 0)) * fields_.get_int(family_.keys.width, 1, kMost, width);
  require(all <= kMost, fmt::format("shared experts of width {}", all));
  if (all > 0) share(static_cast<int>(all), false);
}

std::vector<bool> Reader::layer_types() const {
  if (!fields_.has("layer_types")) return {};
  const Json& types = json_["layer_types"];
  const std::string field = where_ + ": layer_types";
  if (!types.is_array() || static_cast<int>(types.size()) != depth())
    base::input_error("not one word for each layer", field, fmt::format("{} layers", depth()));
  std::vector<bool> sliding;
  for (const Json& type : types) {
    if (type != "full_attention" && type != "sliding_attention")
      base::input_error("an unknown kind of layer: " + type.dump(), field, "known: full_attention, sliding_attention");
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

void Reader::window(int size, const std::vector<bool>& sliding) {
  std::vector<bool> types = layer_types();
  if (types.empty()) types = sliding;
  if (size == 0) {
    require(std::ranges::none_of(types, [](bool slides) { return slides; }),
            "layer_types names sliding layers, and there is no sliding_window");
    return;
  }
  types.resize(config_.layers.size(), types.empty());
  for (size_t l = 0; l < types.size(); ++l) config_.layers[l].sees_all = !types[l];
  if (std::ranges::any_of(types, [](bool slides) { return slides; }))
    config_.attention.window = size;
  else
    for (LayerConfig& layer : config_.layers) layer.sees_all = false;
}

int Reader::window_size(int least) const {
  return static_cast<int>(fields_.get_int("sliding_window", least, kMostPositions, 0));
}

void Reader::balance(const char* key, double fallback) {
  config_.load_weight = fields_.get_number(key, 0, 1000, fallback);
}

}  // namespace choir::model
