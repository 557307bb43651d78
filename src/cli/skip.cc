#include "compress/skip.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/held_out.h"
#include "cli/terminal.h"
#include "compress/skip_gains.h"

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

compress::SkipBudget budget_of(const Skip& o) {
  using By = moe::Skip::By;
  const By by = o.method == "ratio" ? By::kRatio : o.method == "ser" ? By::kBest : By::kTail;
  return {by, o.budget, o.own_gains ? compress::Divisors::kOwn : compress::Divisors::kLeastError};
}

Found told(const model::Model& model, const compress::BudgetResult& result) {
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
  return {model,
          {{"layers", layers}, {"kept_share", result.kept_share}, {"lambda", result.lambda}, {"frontier", frontier}},
          text};
}

// With the gains that have the least KL from the full model on held-out text.
Found by_judged_gains(const runtime::Bundle& bundle, const Skip& o, base::Threads& threads,
                      const compress::Progress& progress) {
  const Split split = split_text(o.calibration, o.held_out, o.hold_out, bundle);
  const model::Model full = bundle.model.with_admission("all");
  const compress::Judge judge = [&](const model::Model& candidate) {
    return eval::distance(full, candidate, split.held_out, {.context = o.context}, threads).kl_mean;
  };
  const compress::GainChoice choice =
      compress::choose_gains(bundle.model, split.batches, budget_of(o), judge, threads, progress);
  Found found = told(choice.model, choice.policy);
  Json trials = Json::array();
  for (size_t i = 0; i < choice.trials.size(); ++i) {
    const compress::GainTrial& trial = choice.trials[i];
    const bool best = i == choice.best;
    trials.push_back({{"divisors", compress::name_of(trial.divisors)},
                      {"amends", compress::name_of(trial.amend)},
                      {"kept_share", trial.kept_share},
                      {"kl_mean", trial.value},
                      {"chosen", best}});
    found.text += fmt::format("divisors {:11}  amends {:7}  held-out KL {:.6f}{}\n", compress::name_of(trial.divisors),
                              compress::name_of(trial.amend), trial.value, best ? "  chosen" : "");
  }
  found.json["gains"] = trials;
  return found;
}

Found find(const runtime::Bundle& bundle, const Skip& o, base::Threads& threads, const compress::Progress& progress) {
  if (!o.held_out.empty() || o.hold_out > 0) return by_judged_gains(bundle, o, threads, progress);
  const auto batches = calibration_batches(o.calibration, bundle);
  if (o.budget == 0) return by_median(bundle.model, batches, threads, progress);
  const compress::BudgetResult result =
      compress::budget_skipping(bundle.model, batches, budget_of(o), threads, progress);
  return told(compress::skipping_model(bundle.model, result), result);
}

}  // namespace

void run(const Skip& o, const Common& common) {
  check_model_output(o.out, o.model, o.force);
  const bool median = o.method == "median" || (o.method.empty() && o.budget == 0);
  if (median && o.budget > 0)
    base::usage_error("the median of each layer knows no budget", "--budget", "--method tail, ser or ratio");
  if (!median && o.budget == 0)
    base::usage_error("no budget for --method " + o.method, "--budget", "give the share that stays, such as 0.7");
  const runtime::Bundle bundle(o.model, runtime::Use::kWrite);
  bundle.model.check_finite();
  base::Threads threads(common.threads, common.placement());
  ProgressLine line;
  const auto progress = [&](int done, int total) {
    line.show(fmt::format("calibrating {}/{}", done, total));
    if (interrupted()) throw base::Error(base::Fault::kInterrupted, "interrupted", o.out, "nothing was written");
  };
  const Found found = find(bundle, o, threads, progress);
  write_model(found.model, o.model, o.out, o.force);
  if (common.json) return print_json(found.json);
  fmt::print("{}", found.text);
}

}  // namespace choir::cli
