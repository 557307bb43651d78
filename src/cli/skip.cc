#include "compress/skip.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/inputs.h"
#include "cli/terminal.h"
#include "compress/skip_budget.h"

namespace choir::cli {
namespace {

using Json = nlohmann::ordered_json;

// What a calibration of either kind leaves behind.
struct Found {
  model::Model model;
  Json json;
  std::string text;  // for people; printed when the model is written
};

Found by_median(const model::Model& model, std::span<const compress::CalibrationBatch> batches, base::Threads& threads,
                const compress::Progress& progress) {
  const compress::SkipResult result = compress::calibrate_skipping(model, batches, threads, progress);
  Json layers = Json::array();
  std::string text;
  for (const compress::LayerSkip& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"beta", layer.beta},
                      {"skipped_share", layer.skipped_share},
                      {"mean_ratio", layer.mean_ratio}});
    text += fmt::format("layer {:3}  beta {:.4f}  skips {:.1f} % of the second experts\n", layer.layer, layer.beta,
                        100 * layer.skipped_share);
  }
  return {compress::skipping_model(model, result), {{"layers", layers}}, text};
}

Found by_budget(const model::Model& model, std::span<const compress::CalibrationBatch> batches, const Skip& o,
                base::Threads& threads, const compress::Progress& progress) {
  using By = moe::Skip::By;
  const By by = o.method == "ratio" ? By::kRatio : o.method == "ser" ? By::kBest : By::kTail;
  const compress::SkipBudget budget{by, o.budget, o.own_gains};
  const compress::BudgetResult result = compress::budget_skipping(model, batches, budget, threads, progress);
  Json layers = Json::array(), frontier = Json::array();
  std::string text;
  for (const compress::LayerSaving& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"beta", layer.threshold},
                      {"skipped_share", layer.skipped_share},
                      {"evaluations", layer.evaluations},
                      {"saved", layer.saved},
                      {"error", layer.error},
                      {"own_error", layer.own_error},
                      {"weights", layer.weights}});
    text += fmt::format("layer {:3}  threshold {:.4f}  saves {:4.1f} % of the evaluations  error {:.3g}  weights {}\n",
                        layer.layer, layer.threshold,
                        100 * static_cast<double>(layer.saved) / static_cast<double>(layer.evaluations), layer.error,
                        layer.weights);
  }
  for (const compress::SkipFrontier& point : result.frontier) {
    frontier.push_back({{"kept_share", point.keep}, {"error", point.error}});
    text += fmt::format("at {:5.1f} % of the evaluations  error {:.3g}\n", 100 * point.keep, point.error);
  }
  text += fmt::format("{:.1f} % of the evaluations stay\n", 100 * result.kept_share);
  return {compress::skipping_model(model, result),
          {{"layers", layers}, {"kept_share", result.kept_share}, {"lambda", result.lambda}, {"frontier", frontier}},
          text};
}

}  // namespace

void run(const Skip& o, const Common& common) {
  check_model_output(o.out, o.model, o.force);
  const bool median = o.method == "median" || (o.method.empty() && o.budget == 0);
  if (median && o.budget > 0)
    base::usage_error("the median of each layer knows no budget", "--budget", "--method tail, ser or ratio");
  if (!median && o.budget == 0)
    base::usage_error("no budget for --method " + o.method, "--budget", "give the share that stays, such as 0.7");
  const runtime::Bundle bundle(o.model);
  bundle.model.check_finite();
  const auto batches = calibration_batches(o.calibration, bundle);
  base::Threads threads(common.threads);
  ProgressLine line;
  const auto progress = [&](int done, int total) {
    line.show(fmt::format("calibrating {}/{}", done, total));
    if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "nothing was written");
  };
  const Found found = median ? by_median(bundle.model, batches, threads, progress)
                             : by_budget(bundle.model, batches, o, threads, progress);
  write_model(found.model, o.model, o.out, o.force);
  if (common.json) return print_json(found.json);
  fmt::print("{}", found.text);
}

}  // namespace choir::cli
