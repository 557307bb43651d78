#include "cli/prune_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "compress/coverage.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostNamed = 20;  // rare experts on a line of their own

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

void add_record(const compress::SetChoice& choice, Json& json) {
  json["objective_loss"] = choice.objective;
  json["relative_loss"] = choice.relative;
  json["short_of"] = choice.short_of;
  if (!choice.proof) return;
  json["proof"] = {{"proved", choice.proof->proved},
                   {"bound", choice.proof->bound},
                   {"gap", choice.proof->gap()},
                   {"nodes", choice.proof->nodes}};
}

Json layer_json(const PrunedLayer& layer, size_t number, bool all_losses) {
  Json json{{"layer", number},
            {"keep", layer.keep},
            {"loss", or_null(layer.loss)},
            {"candidates", or_null(layer.candidates)}};
  json["coverage"] = layer.coverage;
  json["pinned"] = layer.pinned;
  json["super_experts_dropped"] = layer.super_dropped;
  if (layer.on_record) add_record(*layer.on_record, json);
  if (!all_losses) return json;
  json["losses"] = Json::array();
  for (const compress::SubsetLoss& loss : layer.losses)
    json["losses"].push_back(Json::array({loss.dropped, loss.loss}));
  return json;
}

std::string sets_compared(const PrunedLayer& layer) {
  return layer.candidates ? fmt::format("  of {} candidates", *layer.candidates) : "";
}

std::string proof_of(const PrunedLayer& layer) {
  if (!layer.on_record || !layer.on_record->proof) return {};
  const compress::Proof& proof = *layer.on_record->proof;
  return proof.proved ? "  proved" : fmt::format("  within {:.1f} % of the best", 100 * proof.gap());
}

}  // namespace

void warn(const Pruning& pruning, const Prune& options) {
  compress::CoverageTable table;
  for (const PrunedLayer& layer : pruning.layers) table.tokens.push_back(layer.coverage);
  const std::vector<compress::RareExpert> rare = compress::rarely_seen(table, options.least_tokens);
  for (size_t i = 0; i < std::min(rare.size(), kMostNamed); ++i)
    fmt::print(stderr, "layer {}: expert {} saw only {} calibration tokens\n", rare[i].layer, rare[i].expert,
               rare[i].tokens);
  if (rare.size() > kMostNamed)
    fmt::print(stderr, "{} more experts saw fewer than {} calibration tokens\n", rare.size() - kMostNamed,
               options.least_tokens);
  for (size_t l = 0; l < pruning.layers.size(); ++l) {
    const PrunedLayer& layer = pruning.layers[l];
    for (const int e : layer.pinned)
      fmt::print(stderr, "layer {}: expert {} is pinned, its largest answers are far beyond the others'\n", l, e);
    for (const int e : layer.super_dropped)
      fmt::print(stderr, "layer {}: expert {} is dropped, whose largest answers are far beyond the others'\n", l, e);
    const auto& choice = layer.on_record;
    if (choice && choice->short_of * 100 > pruning.tokens)
      fmt::print(stderr, "layer {}: {} of {} tokens lack experts that were not captured; capture for fewer experts\n",
                 l, choice->short_of, pruning.tokens);
  }
}

Json json_of(const PruneReport& report, const Prune& options) {
  Json layers = Json::array();
  for (size_t l = 0; l < report.pruning.layers.size(); ++l) {
    layers.push_back(layer_json(report.pruning.layers[l], l, options.all_losses));
    if (!report.result.widths.empty()) layers.back()["expert_widths"] = report.result.widths[l];
    if (!report.result.padding.empty()) layers.back()["padding"] = report.result.padding[l];
  }
  Json json{{"layers", layers}, {"seconds", report.seconds}};
  json["method"] = report.pruning.method;
  json["objective"] = report.pruning.objective;
  json["tokens"] = report.pruning.tokens;
  for (const compress::BlockChoice& block : report.pruning.blocks)
    json["blocks"].push_back({{"first", block.first},
                              {"layers", block.layers},
                              {"tried", block.tried},
                              {"greedy", block.greedy},
                              {"loss", block.loss}});
  for (const compress::RepairStep& step : report.result.steps)
    json["repair"].push_back(
        {{"name", step.name}, {"before", step.before}, {"after", step.after}, {"kept", step.kept}});
  if (report.held_out)
    json["held_out"] = {
        {"tokens", report.held_out->tokens},         {"kl_mean", report.held_out->kl_mean},
        {"kl_p99", report.held_out->kl_p99},         {"top1_agreement", report.held_out->top1_agreement},
        {"perplexity", report.held_out->perplexity}, {"perplexity_other", report.held_out->perplexity_other}};
  return json;
}

void print_text(const PruneReport& report, const Prune& options) {
  for (size_t l = 0; l < report.pruning.layers.size(); ++l) {
    const PrunedLayer& layer = report.pruning.layers[l];
    fmt::print("layer {:3}  keeps {}  loss {}{}{}\n", l, Json(layer.keep).dump(),
               layer.loss ? fmt::format("{:.6g}", *layer.loss) : "not measured", sets_compared(layer), proof_of(layer));
    if (!report.result.widths.empty()) fmt::print("           neurons {}\n", Json(report.result.widths[l]).dump());
    if (!report.result.padding.empty() && !report.result.padding[l].empty())
      fmt::print("           filled up with {}\n", Json(report.result.padding[l]).dump());
  }
  for (const compress::BlockChoice& block : report.pruning.blocks)
    fmt::print("layers {} to {} together  loss {:.6g} where their own best sets have {:.6g}, of {} combinations\n",
               block.first, block.first + block.layers - 1, block.loss, block.greedy, block.tried);
  if (report.held_out)
    fmt::print("held out: KL {:.6f}, perplexity {:.4g} where the full model has {:.4g}\n", report.held_out->kl_mean,
               report.held_out->perplexity_other, report.held_out->perplexity);
  fmt::print("{}  ({:.1f} s)\n", options.out.empty() ? options.save_plan : options.out, report.seconds);
}

}  // namespace choir::cli
