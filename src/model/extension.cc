#include "model/extension.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/families/reader.h"
#include "moe/router.h"

namespace choir::model {
namespace {

using io::Fields;
using io::Json;

constexpr std::pair<const char*, int LayerConfig::*> kIdleCounts[] = {
    {"zero_experts", &LayerConfig::zero_experts},
    {"copy_experts", &LayerConfig::copy_experts},
    {"constant_experts", &LayerConfig::constant_experts},
    {"novice_experts", &LayerConfig::novice_experts}};

void require(bool condition, const std::string& what, const std::string& where) {
  if (!condition) base::input_error(what, where, "the configuration contradicts itself");
}

// Experts without weights: a number for all layers, or an array of one for each.
void read_idle(const Json& json, const std::string& where, Config& config) {
  if (!json.contains("choir") || !json["choir"].is_object()) return;
  std::vector<bool> dense;
  for (const LayerConfig& layer : config.layers) dense.push_back(layer.dense());
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
      if (!dense[l])
        config.layers[l].*member = own.get<int>();
      else if (counts.is_array() && own != 0)
        base::input_error("experts in a dense layer", fmt::format("{}[{}]", field, l), "it must be 0 there");
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
    if (layer.dense() || own == "") continue;  // the family's own
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

// 0.4, not 0.4000000059604645.
double shortest(float value) { return std::stod(fmt::format("{}", value)); }

Json per_layer_json(const Config& config, int LayerConfig::*member) {
  Json array = Json::array();
  for (const LayerConfig& layer : config.layers) array.push_back(layer.*member);
  return array;
}

// The largest of a number over the layers with experts, and whether these are alike.
struct Common {
  int most = 0;
  bool same = true;

  Common(const Config& config, int LayerConfig::*member) {
    for (const LayerConfig& layer : config.layers)
      if (!layer.dense()) most = std::max(most, layer.*member);
    for (const LayerConfig& layer : config.layers) same = same && (layer.dense() || layer.*member == most);
  }
};

void write_counts(const Config& config, const Keys& keys, Json& json) {
  const auto spelt = [&](const char* key, const char* other) { return other && json.contains(other) ? other : key; };
  const std::pair<const char*, int LayerConfig::*> counts[] = {
      {spelt(keys.experts, keys.other_experts), &LayerConfig::experts},
      {spelt(keys.top_k, keys.other_top_k), &LayerConfig::top_k},
      {keys.width, &LayerConfig::expert_width}};
  for (const auto& [key, member] : counts) {
    const Common common(config, member);
    // A width that the shared experts follow stays as it is.
    const bool fixed = keys.shared && member == &LayerConfig::expert_width && json.contains(key);
    const bool other = fixed && json[key] != common.most;
    if (!fixed) json[key] = common.most;
    if (!common.same || other) json["choir"][key] = per_layer_json(config, member);
  }
}

void write_routers(const Config& config, Json& json) {
  std::vector<std::string> routers;
  for (const LayerConfig& layer : config.layers)
    if (!layer.dense()) routers.push_back(layer.router);
  if (std::ranges::all_of(routers, &std::string::empty)) return;
  if (std::ranges::count(routers, routers.front()) == std::ssize(routers)) {
    json["choir"]["router"] = routers.front();
    return;
  }
  for (const LayerConfig& layer : config.layers) json["choir"]["router"].push_back(layer.router);
}

}  // namespace

void read_extension(const Json& json, const std::string& where, Config& config) {
  read_idle(json, where, config);
  for (int l = 0; l < config.depth(); ++l) {
    const LayerConfig& layer = config.layers[l];
    require(layer.routed() <= kMostExperts, fmt::format("layer {} has {} experts", l, layer.routed()), where);
    require(layer.top_k <= layer.routed(),
            fmt::format("layer {} chooses {} of {} experts", l, layer.top_k, layer.routed()), where);
  }
  read_kept(json, where, config);
  read_widths(json, where, config);
  read_routers(json, where, config);
  read_betas(json, where, config);
}

void write_extension(const Config& config, const Family& family, Json& json) {
  json.erase("choir");
  json.erase("betas");
  const bool any = std::ranges::any_of(config.layers, [](const LayerConfig& l) { return !l.dense(); });
  if (family.keys.any() && any) write_counts(config, family.keys, json);
  for (const auto& [key, member] : kIdleCounts) {
    const Common common(config, member);
    if (!common.same)
      json["choir"][key] = per_layer_json(config, member);
    else if (common.most > 0)
      json["choir"][key] = common.most;
  }
  write_routers(config, json);
  for (int l = 0; l < config.depth(); ++l)
    if (config.layers[l].skip_beta) json["betas"][std::to_string(l)] = shortest(*config.layers[l].skip_beta);
  if (std::ranges::any_of(config.layers, [](const LayerConfig& l) { return !l.kept.empty(); }))
    for (const LayerConfig& layer : config.layers) json["choir"]["kept_experts"].push_back(layer.kept);
  if (std::ranges::any_of(config.layers, [](const LayerConfig& l) { return !l.widths.empty(); }))
    for (const LayerConfig& layer : config.layers) json["choir"]["expert_widths"].push_back(layer.widths);
}

}  // namespace choir::model
