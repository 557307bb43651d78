#include <fmt/format.h>

#include <algorithm>
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

// "none" of a model in which every layer sees all; "128 in 12 layers" where some do.
std::string window_text(const model::Config& config) {
  if (config.attention.window == 0) return "none";
  const auto slides = [](const model::LayerConfig& layer) { return !layer.sees_all; };
  const auto count = std::ranges::count_if(config.layers, slides);
  if (count == config.depth()) return std::to_string(config.attention.window);
  return fmt::format("{} in {} layers", config.attention.window, count);
}

// "16 heads of 192, from latent rows of 576" or "32 heads of 128 (8 key-value)".
std::string heads_text(const model::Config& config) {
  const auto& a = config.attention;
  if (config.is_latent())
    return fmt::format("{} heads of {}, from latent rows of {}", a.heads, a.head_width, config.latent.cached());
  return fmt::format("{} heads of {} ({} key-value)", a.heads, a.head_width, a.kv_heads);
}

// " at most, 40 on average" behind the width of experts that are not alike.
std::string widths_text(const model::LayerConfig& layer) {
  if (layer.widths.empty()) return {};
  return fmt::format(" at most, {} on average", layer.total_width() / layer.experts);
}

std::string layer_text(const model::Config& config, const model::LayerConfig& layer) {
  if (layer.dense()) return fmt::format("dense, width {}", layer.shared_width);
  const std::string shared = layer.shared_width > 0 ? fmt::format(", one of {} for all", layer.shared_width) : "";
  return fmt::format("{:3} experts of width {:5}{}{}{}  {}", layer.experts, layer.expert_width, widths_text(layer),
                     idle_text(layer), shared, model::router_expression(config, layer));
}

}  // namespace

void run(const Inspect& o, const Common& common) {
  const model::Model model(o.model, model::Panels::kStay);
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
      if (layer.shared_width > 0) entry["shared_width"] = layer.shared_width;
      layers.push_back(entry);
    }
    print_json({{"family", config.family},
                {"layers", layers},
                {"parameters", count.total},
                {"active_parameters", count.active},
                {"bytes", model::bytes_of(model)},
                {"bytes_per_token", model::bytes_per_token(model)},
                {"router", model::router_expression(config, model::typical_layer(config))},
                {"dtype", tensor::name_of(model.tensors().embedding.type)},
                {"packed", model.tensors().head.packed()},
                {"defaults_used", config.defaulted},
                {"notes", config.notes}});
    return;
  }
  fmt::print("{}  {:.2f} M parameters, {:.2f} M active a token, {:.2f} MB ({}{})\n", config.family,
             static_cast<double>(count.total) / 1e6, static_cast<double>(count.active) / 1e6,
             static_cast<double>(model::bytes_of(model)) / 1e6, tensor::name_of(model.tensors().embedding.type),
             model.tensors().head.packed() ? ", packed" : "");
  fmt::print("width {}, {}, window {}, vocabulary {}, {} positions\n", config.width, heads_text(config),
             window_text(config), config.vocab, config.max_positions);
  for (int l = 0; l < config.depth(); ++l) fmt::print("layer {:3}  {}\n", l, layer_text(config, config.layers[l]));
  for (const std::string& line : config.defaulted) fmt::print("missing in config.json, taken as: {}\n", line);
  for (const std::string& line : config.notes) fmt::print("note: {}\n", line);
}

}  // namespace choir::cli
