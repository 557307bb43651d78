#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/options.h"
#include "cli/terminal.h"
#include "model/model.h"

namespace choir::cli {
namespace {

// Experts that cost next to nothing, by their keys in config.json.
std::vector<std::pair<const char*, int>> idle_experts(const model::LayerConfig& layer) {
  std::vector<std::pair<const char*, int>> there{{"zero_experts", layer.zero_experts},
                                                 {"copy_experts", layer.copy_experts},
                                                 {"constant_experts", layer.constant_experts},
                                                 {"novice_experts", layer.novice_experts}};
  std::erase_if(there, [](const auto& kind) { return kind.second == 0; });
  return there;
}

// ", 1 zero, 2 constant" behind the number of the others.
std::string idle_text(const model::LayerConfig& layer) {
  std::string text;
  for (const auto& [key, count] : idle_experts(layer))
    text += fmt::format(", {} {}", count, std::string_view(key).substr(0, std::string_view(key).find('_')));
  return text;
}

// " at most, 40 on average" behind the width of experts that are not alike.
std::string widths_text(const model::LayerConfig& layer) {
  if (layer.widths.empty()) return {};
  return fmt::format(" at most, {} on average", layer.total_width() / layer.experts);
}

}  // namespace

void run(const Inspect& o, const Common& common) {
  const model::Model model(o.model);
  const model::Config& config = model.config();
  const auto count = model::count_parameters(config);
  if (common.json) {
    nlohmann::ordered_json layers = nlohmann::ordered_json::array();
    for (const model::LayerConfig& layer : config.layers) {
      nlohmann::ordered_json entry{
          {"experts", layer.experts}, {"top_k", layer.top_k}, {"expert_width", layer.expert_width}};
      for (const auto& [key, number] : idle_experts(layer)) entry[key] = number;
      if (layer.skip_beta) entry["skip_beta"] = *layer.skip_beta;
      entry["router"] = model::router_expression(config, layer);
      if (!layer.kept.empty()) entry["kept_experts"] = layer.kept;
      if (!layer.widths.empty()) entry["expert_widths"] = layer.widths;
      layers.push_back(entry);
    }
    print_json({{"family", config.family},
                {"layers", layers},
                {"parameters", count.total},
                {"active_parameters", count.active},
                {"bytes", model::bytes_of(model)},
                {"bytes_per_token", model::bytes_per_token(model)},
                {"router", model::router_expression(config, config.layers.front())},
                {"dtype", tensor::name_of(model.tensors().embedding.type)},
                {"defaults_used", config.defaulted}});
    return;
  }
  fmt::print("{}  {:.2f} M parameters, {:.2f} M active a token, {:.2f} MB ({})\n", config.family,
             static_cast<double>(count.total) / 1e6, static_cast<double>(count.active) / 1e6,
             static_cast<double>(model::bytes_of(model)) / 1e6, tensor::name_of(model.tensors().embedding.type));
  fmt::print("width {}, {} heads of {} ({} key-value), window {}, vocabulary {}, {} positions\n", config.width,
             config.attention.heads, config.attention.head_width, config.attention.kv_heads,
             config.attention.window ? std::to_string(config.attention.window) : "none", config.vocab,
             config.max_positions);
  for (int l = 0; l < config.depth(); ++l)
    fmt::print("layer {:3}  {:3} experts of width {:5}{}{}  {}\n", l, config.layers[l].experts,
               config.layers[l].expert_width, widths_text(config.layers[l]), idle_text(config.layers[l]),
               model::router_expression(config, config.layers[l]));
  for (const std::string& line : config.defaulted) fmt::print("missing in config.json, taken as: {}\n", line);
}

}  // namespace choir::cli
