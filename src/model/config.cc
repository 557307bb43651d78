#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "model/families/mixtral.h"
#include "moe/router.h"

namespace choir::model {
namespace {

using io::Fields;
using io::Json;

// Beyond what sound models have; all parameters of the largest can still be counted in 64 bits.
constexpr int64_t kMost = 1 << 18;  // of any width or count
constexpr int kMostExperts = 4096, kMostHeadWidth = 1024;

constexpr std::pair<const char*, int LayerConfig::*> kIdleCounts[] = {
    {"zero_experts", &LayerConfig::zero_experts},
    {"copy_experts", &LayerConfig::copy_experts},
    {"constant_experts", &LayerConfig::constant_experts},
    {"novice_experts", &LayerConfig::novice_experts}};

int get(const Fields& fields, const std::string& key, std::optional<int64_t> fallback = {}) {
  return static_cast<int>(fields.get_int(key, 1, kMost, fallback));
}

// A default is used, and said.
int get_defaulted(const Fields& fields, const std::string& key, int64_t fallback, Config& config) {
  if (!fields.has(key)) config.defaulted.push_back(fmt::format("{} = {}", key, fallback));
  return get(fields, key, fallback);
}

double number_defaulted(const Fields& fields, const std::string& key, double most, double fallback, Config& config) {
  if (!fields.has(key)) config.defaulted.push_back(fmt::format("{} = {}", key, fallback));
  return fields.get_number(key, 0, most, fallback);
}

void require(bool condition, const std::string& what, const std::string& where) {
  if (!condition) base::input_error(what, where, "the configuration contradicts itself");
}

// transformers 4.x writes rope_theta beside rope_scaling, 5.x writes both into rope_parameters.
void read_rope(const Json& json, const std::string& where, Config& config) {
  const Fields fields(json, where);
  const auto plain = [&](const Json& rope, const std::string& name) {
    const Fields f(rope, where + ": " + name);
    const std::string type = f.get_string("rope_type", f.get_string("type", "default"));
    if (type != "default")
      base::input_error("rotary scaling \"" + type + "\" is not known for this family", where + ": " + name,
                        "only plain RoPE is supported here");
  };
  if (fields.has("rope_scaling")) plain(json["rope_scaling"], "rope_scaling");
  if (fields.has("rope_parameters")) {
    plain(json["rope_parameters"], "rope_parameters");
    const Fields rope(json["rope_parameters"], where + ": rope_parameters");
    const bool outside = !rope.has("rope_theta") && fields.has("rope_theta");
    config.rope_theta = number_defaulted(outside ? fields : rope, "rope_theta", 1e12, mixtral::kRopeTheta, config);
  } else {
    config.rope_theta = number_defaulted(fields, "rope_theta", 1e12, mixtral::kRopeTheta, config);
  }
  require(config.rope_theta >= 1, "rope_theta must be 1 or more", where);
}

void read_attention(const Fields& fields, const std::string& where, Config& config) {
  auto& a = config.attention;
  a.heads = get(fields, "num_attention_heads");
  a.kv_heads = get_defaulted(fields, "num_key_value_heads", 8, config);
  require(a.heads % a.kv_heads == 0, fmt::format("{} heads cannot share {} key-value heads", a.heads, a.kv_heads),
          where);
  if (!fields.has("head_dim"))
    require(config.width % a.heads == 0,
            fmt::format("hidden_size {} is no multiple of {} heads", config.width, a.heads), where);
  a.head_width = get(fields, "head_dim", std::max(1, config.width / a.heads));
  require(a.head_width % 2 == 0, fmt::format("head width {} is odd: RoPE turns pairs", a.head_width), where);
  require(a.head_width <= kMostHeadWidth && static_cast<int64_t>(a.heads) * a.head_width <= kMost,
          fmt::format("{} heads of width {}", a.heads, a.head_width), where);
  a.window = fields.has("sliding_window") ? static_cast<int>(fields.get_int("sliding_window", 1, 1 << 30)) : 0;
}

// The array `key` of the extension block, one number for each layer, or `scalar` for all of them.
std::vector<int> per_layer(const Json& json, const std::string& key, int scalar, int depth, const std::string& where) {
  std::vector<int> result(static_cast<size_t>(depth), scalar);
  if (!json.contains("choir") || !json["choir"].is_object() || !json["choir"].contains(key)) return result;
  const Json& array = json["choir"][key];
  const std::string field = where + ": choir." + key;
  if (!array.is_array() || array.size() != result.size())
    base::input_error("not an array of one number for each layer", field, fmt::format("{} layers", depth));
  for (size_t l = 0; l < result.size(); ++l) {
    if (!array[l].is_number_integer() || array[l] < 1 || array[l] > kMost)
      base::input_error("not a whole number from 1 on", fmt::format("{}[{}]", field, l), array[l].dump());
    result[l] = array[l].get<int>();
  }
  return result;
}

// Experts without weights: a number for all layers, or an array of one for each.
void read_idle(const Json& json, const std::string& where, Config& config) {
  if (!json.contains("choir") || !json["choir"].is_object()) return;
  for (const auto& [key, member] : kIdleCounts) {
    if (!json["choir"].contains(key)) continue;
    const Json& counts = json["choir"][key];
    const std::string field = where + ": choir." + key;
    if (counts.is_array() && counts.size() != config.layers.size())
      base::input_error("not a number, nor one for each layer", field, fmt::format("{} layers", config.depth()));
    for (size_t l = 0; l < config.layers.size(); ++l) {
      const Json& own = counts.is_array() ? counts[l] : counts;
      if (!own.is_number_integer() || own < 0 || own > kMostExperts)
        base::input_error("not a number of experts", fmt::format("{}[{}]", field, l), own.dump());
      config.layers[l].*member = own.get<int>();
    }
  }
}

void read_kept(const Json& json, const std::string& where, Config& config) {
  if (!json.contains("choir") || !json["choir"].contains("kept_experts")) return;
  const Json& kept = json["choir"]["kept_experts"];
  const std::string field = where + ": choir.kept_experts";
  if (!kept.is_array() || kept.size() != config.layers.size())
    base::input_error("not one list for each layer", field, fmt::format("{} layers", config.depth()));
  for (size_t l = 0; l < kept.size(); ++l) {
    LayerConfig& layer = config.layers[l];
    if (!kept[l].is_array() || static_cast<int>(kept[l].size()) != layer.experts)
      base::input_error("not one number for each expert", fmt::format("{}[{}]", field, l),
                        fmt::format("{} experts", layer.experts));
    for (const Json& e : kept[l]) {
      if (!e.is_number_integer() || e < 0 || e >= kMostExperts)
        base::input_error("not an expert's number", fmt::format("{}[{}]", field, l), e.dump());
      layer.kept.push_back(e.get<int>());
    }
  }
}

// Experts of unequal widths: a list for each layer, empty where all are as wide as the layer says.
void read_widths(const Json& json, const std::string& where, Config& config) {
  if (!json.contains("choir") || !json["choir"].contains("expert_widths")) return;
  const Json& widths = json["choir"]["expert_widths"];
  const std::string field = where + ": choir.expert_widths";
  if (!widths.is_array() || widths.size() != config.layers.size())
    base::input_error("not one list for each layer", field, fmt::format("{} layers", config.depth()));
  for (size_t l = 0; l < widths.size(); ++l) {
    LayerConfig& layer = config.layers[l];
    const std::string place = fmt::format("{}[{}]", field, l);
    if (!widths[l].is_array() || (!widths[l].empty() && static_cast<int>(widths[l].size()) != layer.experts))
      base::input_error("not one width for each expert", place, fmt::format("{} experts", layer.experts));
    for (const Json& width : widths[l]) {
      if (!width.is_number_integer() || width < 1 || width > layer.expert_width)
        base::input_error("not a width", place, fmt::format("{}; the layer's is {}", width.dump(), layer.expert_width));
      layer.widths.push_back(width.get<int>());
    }
    require(layer.widths.empty() || std::ranges::max(layer.widths) == layer.expert_width,
            fmt::format("layer {}: no expert is {} wide", l, layer.expert_width), where);
  }
}

// One expression or alias for all layers, or an array of one for each.
void read_routers(const Json& json, const std::string& where, Config& config) {
  if (!json.contains("choir") || !json["choir"].contains("router")) return;
  const Json& router = json["choir"]["router"];
  const std::string field = where + ": choir.router";
  if (!router.is_string() && !(router.is_array() && router.size() == config.layers.size()))
    base::input_error("not an expression, nor one for each layer", field, fmt::format("{} layers", config.depth()));
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const Json& own = router.is_array() ? router[l] : router;
    if (!own.is_string()) base::input_error("not a string", fmt::format("{}[{}]", field, l), own.dump());
    LayerConfig& layer = config.layers[l];
    try {
      const moe::Router made = moe::parse_router(own.get<std::string>());
      layer.router = made.expression();
      moe::check_router(made, layer.routed(), config.width, field);
      layer.top_k = made.choices(layer.routed());
    } catch (const base::Error& error) {  // of the file, not of the call
      base::input_error(error.message, field, error.hint);
    }
  }
}

// The published skipping code keeps its thresholds as "betas", a map from layer to number.
void read_betas(const Json& json, const std::string& where, Config& config) {
  if (!json.contains("betas") || json["betas"].is_null()) return;
  const Fields betas(json["betas"], where + ": betas");
  for (int l = 0; l < config.depth(); ++l) {
    if (!betas.has(std::to_string(l))) continue;
    LayerConfig& layer = config.layers[l];
    const moe::Router router = moe::parse_router(router_expression(config, layer));  // before the threshold acts
    layer.skip_beta = static_cast<float>(betas.get_number(std::to_string(l), 0, 1e30));
    require(router.skippable(), fmt::format("betas.{}: skipping needs top-2 routing that admits all", l), where);
  }
}

void read_end_tokens(const Json& json, Config& config) {
  if (!json.contains("eos_token_id")) return;
  const Json& eos = json["eos_token_id"];
  for (const Json& id : eos.is_array() ? eos : Json::array({eos}))
    if (id.is_number_integer() && id >= 0 && id < config.vocab) config.end_tokens.push_back(id.get<int>());
}

// 0.4, not 0.4000000059604645.
double shortest(float value) { return std::stod(fmt::format("{}", value)); }

Json per_layer_json(const Config& config, int LayerConfig::*member) {
  Json array = Json::array();
  for (const LayerConfig& layer : config.layers) array.push_back(layer.*member);
  return array;
}

}  // namespace

int64_t LayerConfig::total_width() const {
  int64_t total = 0;
  for (int e = 0; e < experts; ++e) total += width_of(e);
  return total;
}

std::string router_expression(const Config& config, const LayerConfig& layer) {
  if (!layer.router.empty())
    return layer.skip_beta ? moe::with_admission(layer.router, fmt::format("skip({})", *layer.skip_beta))
                           : layer.router;
  const std::string admit = layer.skip_beta ? fmt::format("skip({})", *layer.skip_beta) : "all";
  const std::string balance = config.load_weight > 0 ? fmt::format(" + load({})", config.load_weight) : "";
  return fmt::format("linear > top_k({}) > {} > chosen{}", layer.top_k, admit, balance);
}

Config parse_config(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  Config config;
  config.family = fields.get_string("model_type");
  if (config.family != mixtral::kFamily)
    base::input_error("unknown family \"" + config.family + "\"", where + ": model_type", "known: mixtral");
  if (const std::string act = fields.get_string("hidden_act", "silu"); act != "silu")
    base::input_error("unknown activation \"" + act + "\"", where + ": hidden_act", "known: silu");
  config.width = get(fields, "hidden_size");
  config.vocab = static_cast<int>(fields.get_int("vocab_size", 1, 1 << 24));
  config.max_positions = static_cast<int>(fields.get_int("max_position_embeddings", 1, 1 << 30, 32768));
  config.norm_epsilon = number_defaulted(fields, "rms_norm_eps", 1, 1e-5, config);
  config.tied = fields.get_bool("tie_word_embeddings", false);
  config.load_weight = fields.get_number("router_aux_loss_coef", 0, 1000, 0.001);
  read_rope(json, where, config);
  read_attention(fields, where, config);
  const int depth = static_cast<int>(fields.get_int("num_hidden_layers", 1, 4096));
  const auto experts =
      per_layer(json, mixtral::kExpertsKey, get_defaulted(fields, mixtral::kExpertsKey, 8, config), depth, where);
  const auto top_k =
      per_layer(json, mixtral::kTopKKey, get_defaulted(fields, mixtral::kTopKKey, 2, config), depth, where);
  const auto widths = per_layer(json, mixtral::kExpertWidthKey, get(fields, mixtral::kExpertWidthKey), depth, where);
  for (int l = 0; l < depth; ++l) config.layers.push_back({experts[l], top_k[l], widths[l], {}, {}});
  read_idle(json, where, config);
  for (int l = 0; l < depth; ++l) {
    const LayerConfig& layer = config.layers[l];
    require(layer.routed() <= kMostExperts, fmt::format("layer {} has {} experts", l, layer.routed()), where);
    require(layer.top_k <= layer.routed(),
            fmt::format("layer {} chooses {} of {} experts", l, layer.top_k, layer.routed()), where);
  }
  read_kept(json, where, config);
  read_widths(json, where, config);
  read_routers(json, where, config);
  read_betas(json, where, config);
  read_end_tokens(json, config);
  return config;
}

Config read_config(const std::string& path) { return parse_config(io::read_json(path), path); }

Json config_json(const Config& config, const Json& base) {
  Json json = base.is_object() ? base : Json::object();
  json.erase("choir");
  json.erase("betas");
  const auto most = [&](int LayerConfig::*member) {
    int result = 0;
    for (const LayerConfig& layer : config.layers) result = std::max(result, layer.*member);
    return result;
  };
  const std::pair<const char*, int LayerConfig::*> counts[] = {{mixtral::kExpertsKey, &LayerConfig::experts},
                                                               {mixtral::kTopKKey, &LayerConfig::top_k},
                                                               {mixtral::kExpertWidthKey, &LayerConfig::expert_width}};
  for (const auto& [key, member] : counts) {
    json[key] = most(member);
    if (std::ranges::any_of(config.layers, [&](const LayerConfig& l) { return l.*member != most(member); }))
      json["choir"][key] = per_layer_json(config, member);
  }
  for (const auto& [key, member] : kIdleCounts) {
    const int first = config.layers.front().*member;
    const bool same = std::ranges::all_of(config.layers, [&](const LayerConfig& l) { return l.*member == first; });
    if (!same)
      json["choir"][key] = per_layer_json(config, member);
    else if (first > 0)
      json["choir"][key] = first;
  }
  if (std::ranges::any_of(config.layers, [](const LayerConfig& l) { return !l.router.empty(); })) {
    const std::string& first = config.layers.front().router;
    const bool same = std::ranges::all_of(config.layers, [&](const LayerConfig& l) { return l.router == first; });
    for (const LayerConfig& layer : config.layers) json["choir"]["router"].push_back(layer.router);
    if (same) json["choir"]["router"] = first;
  }
  for (int l = 0; l < config.depth(); ++l)
    if (config.layers[l].skip_beta) json["betas"][std::to_string(l)] = shortest(*config.layers[l].skip_beta);
  if (std::ranges::any_of(config.layers, [](const LayerConfig& l) { return !l.kept.empty(); }))
    for (const LayerConfig& layer : config.layers) json["choir"]["kept_experts"].push_back(layer.kept);
  if (std::ranges::any_of(config.layers, [](const LayerConfig& l) { return !l.widths.empty(); }))
    for (const LayerConfig& layer : config.layers) json["choir"]["expert_widths"].push_back(layer.widths);
  return json;
}

ParameterCount count_parameters(const Config& config) {
  const int64_t d = config.width, table = static_cast<int64_t>(config.vocab) * d;
  const int64_t q = config.attention.heads * config.attention.head_width;
  const int64_t kv = config.attention.kv_heads * config.attention.head_width;
  ParameterCount count{table + d, d + table + d};  // of the embedding a token uses one row, of the head all
  if (!config.tied) count.total += table;
  for (const LayerConfig& layer : config.layers) {
    int64_t gate = 0;
    const moe::Router router = moe::parse_router(router_expression(config, layer));
    for (const moe::GateTensor& tensor : router.tensors(layer.routed(), config.width))
      gate += static_cast<int64_t>(tensor.rows) * tensor.cols;
    const int64_t shared = 2 * d * (q + kv) + 2 * d + gate + d * (3 * layer.constant_experts + layer.novice_experts);
    const int64_t experts = 3 * d * layer.total_width();  // a token uses top_k of mean width
    count.total += shared + experts;
    count.active += shared + experts * std::min(layer.top_k, layer.experts) / layer.experts;
  }
  return count;
}

}  // namespace choir::model
