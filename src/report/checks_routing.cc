#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "report/checks.h"
#include "report/thin.h"

namespace choir::report {
namespace {

// When the same K experts take every token, the busiest has E/K times the mean. Nine tenths of it: all but one token in
// ten go to one expert.
constexpr double kCollapsed = 0.9;
constexpr double kLopsided = 0.5;  // half of all tokens go to one expert: not yet lost, and seldom wanted
// With E/K below this, half of the greatest ratio is an ordinary imbalance.
constexpr double kLeastRatio = 3;

// Nats. Of one expert that takes everything the entropy is 0; of two equal ones 0.69.
constexpr double kNoEntropy = 0.1;

// So large a share of the experts idle for a tenth of the run is a fault: their weights are paid for and never trained.
constexpr double kManyDead = 0.25;

// A router that learns has gradients of 1e-6 and more in float; what is below 1e-12 comes from rounding.
constexpr double kNoGradient = 1e-12;

double greatest(const Column& values) {
  double most = NAN;
  for (const double v : values) most = std::fmax(most, v);
  return most;
}

double least(const Column& values) {
  double result = NAN;
  for (const double v : values) result = std::fmin(result, v);
  return result;
}

void judge_load(const Run& run, const Column& ratios, int layer, Check& check) {
  const int64_t experts = run.experts_of(std::max(layer, 0));
  if (experts == 0) return;
  const double top_k = run.top_k > 0 ? static_cast<double>(run.top_k) : 1;
  const double most = static_cast<double>(experts) / top_k, ratio = median(last_part(ratios));
  const std::string figures =
      fmt::format("the busiest of {} experts has {:.2f} times the mean load, of {:.2f} at most", experts, ratio, most);
  if (most > 1 && ratio >= kCollapsed * most)
    check.fault(layer, figures +
                           ": the router has collapsed; raise the weight of the balance loss, lower the learning "
                           "rate of the start");
  else if (most >= kLeastRatio && ratio >= kLopsided * most)
    check.warning(layer, figures + ": raise the weight of the balance loss");
}

// Whether the router's first word has weights to learn; false also where the word is not known.
bool score_has_weights(std::string_view router) {
  const std::string_view score = router.substr(0, router.find('>'));
  const std::string_view word = score.substr(0, score.find_first_of(" ("));
  for (const std::string_view known : {"linear", "noisy", "dense_cosine", "projected_cosine"})
    if (word == known) return true;
  return score.find("learn") != std::string_view::npos;
}

// Whether the router's admission finds its capacity anew in each step.
bool capacity_adapts(std::string_view router) {
  for (const std::string_view word : {"etr_sum", "etr_bound", "theory"})
    if (router.find(word) != std::string_view::npos) return true;
  return false;
}

}  // namespace

void check_collapse(const Run& run, std::vector<Finding>& findings) {
  Check check("collapse", findings);
  const Rows* ratios = run.steps.find_layers("max_over_mean_load");
  const Rows* entropies = run.steps.find_layers("load_entropy");
  const Column* worst = run.steps.find("max_over_mean_load");
  if (ratios)
    for (size_t l = 0; l < ratios->size(); ++l) judge_load(run, (*ratios)[l], static_cast<int>(l), check);
  else if (worst)
    judge_load(run, *worst, -1, check);
  for (size_t l = 0; entropies && l < entropies->size(); ++l)
    if (const double entropy = median(last_part((*entropies)[l]));
        entropy < kNoEntropy && run.experts_of(static_cast<int>(l)) != 1)
      check.fault(
          static_cast<int>(l),
          fmt::format("the entropy of the load is {:.3f} nats: one expert takes everything; raise the weight of "
                      "the balance loss",
                      entropy));
  if (!ratios && !worst && !entropies) return check.note("the run has no loads of experts");
  check.otherwise_ok(worst ? fmt::format("the busiest expert has {:.2f} times the mean load", median(last_part(*worst)))
                           : "loads are spread");
}

void check_dead_experts(const Run& run, std::vector<Finding>& findings) {
  Check check("dead experts", findings);
  const Rows* layers = run.steps.find_layers("dead_experts");
  if (!layers) return check.note("the run does not count dead experts");
  for (size_t l = 0; l < layers->size(); ++l) {
    const Column part = last_part((*layers)[l]);
    const double dead = least(part);  // so many in each of these steps, however small a batch is
    if (!(dead >= 1)) continue;
    const int layer = static_cast<int>(l);
    const auto experts = static_cast<double>(run.experts_of(layer));
    const std::string message = fmt::format(
        "at least {:.0f}{} experts had no token in each of the last {} steps: raise the weight of the balance loss, or "
        "train fewer experts",
        dead, experts > 0 ? fmt::format(" of {:.0f}", experts) : "", part.size());
    if (experts > 0 && dead >= kManyDead * experts)
      check.fault(layer, message);
    else
      check.warning(layer, message);
  }
  check.otherwise_ok("every expert works");
}

void check_router_gradient(const Run& run, std::vector<Finding>& findings) {
  Check check("router gradient", findings);
  const bool has_weights = score_has_weights(run.router);
  const Rows* layers = run.steps.find_layers("router_gradient_norm");
  if (!layers && has_weights && !run.steps.layers.empty())
    check.fault(-1, "the router has weights and the run records no gradient of it: is it left out of the backward?");
  if (!layers) return check.otherwise_ok("the run records no gradient of its routers");
  for (size_t l = 0; l < layers->size(); ++l) {
    const Column part = last_part((*layers)[l]);
    const double most = greatest(part);
    if (std::isnan(most) && has_weights)
      check.fault(static_cast<int>(l), "the router has weights and no gradient is recorded");
    else if (most <= kNoGradient)
      check.fault(
          static_cast<int>(l),
          fmt::format("the gradient of the router is {:.1e} at most in the last {} steps: nothing that is trained "
                      "depends on it; with one expert a token, weigh by a score that is not renormalised",
                      most, part.size()));
  }
  check.otherwise_ok(has_weights ? "routers have gradients" : "no router with weights lacks a gradient");
}

void check_capacity(const Run& run, std::vector<Finding>& findings) {
  Check check("capacity", findings);
  const Rows* layers = run.steps.find_layers("capacity");
  const bool adapts = capacity_adapts(run.router);
  for (size_t l = 0; layers && l < layers->size(); ++l) {
    const Column &whole = (*layers)[l], part = last_part(whole);
    const double low = least(part), high = greatest(part);
    if (std::isnan(low) || low != high) continue;
    const bool moved = least(whole) != low || greatest(whole) != high;
    if (!moved && !adapts) continue;  // it is fixed, and meant to be
    const Rows* processed = run.steps.find_layers("processed_share");
    const double share = processed && l < processed->size() ? median(last_part((*processed)[l])) : NAN;
    check.warning(
        static_cast<int>(l),
        fmt::format("the capacity stands at {:.0f} tokens in each of the last {} steps, its limit{}: the rule "
                    "that should find it has no say; widen the clamp",
                    low, part.size(),
                    std::isnan(share) ? "" : fmt::format(", and {:.1f} % of the pairs are kept", 100 * share)));
  }
  check.otherwise_ok(layers ? "no capacity rests at its clamp" : "no capacity is recorded");
}

}  // namespace choir::report
