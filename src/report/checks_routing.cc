#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "report/checks.h"
#include "report/thin.h"

namespace choir::report {
namespace {

// When the same K experts take every token, the busiest has E/K times the mean; 1 is balance. Nine tenths of the way:
// all but one token in ten go to one expert.
constexpr double kCollapsed = 0.9;
constexpr double kLopsided = 0.5;  // half of all tokens go to one expert: not yet lost, and seldom wanted
// With E/K below this, half of the greatest ratio is an ordinary imbalance.
constexpr double kLeastRatio = 3;

// Nats above log K, the entropy of K experts that take everything together; of K + 1 it is log(1 + 1/K) above. Where E
// is hardly more than K, a quarter of what lies between log K and log E.
constexpr double kNoEntropy = 0.1, kPartOfEntropy = 0.25;

// So large a share of the experts idle for a tenth of the run is a fault: their weights are paid for and never trained.
constexpr double kManyDead = 0.25;

// With fewer tokens an expert than this, one of many experts is without a token in a step by luck: e^-4 is 2 %.
constexpr double kLeastTokens = 4;

// Of shares: a tracked capacity comes near its limit, and never quite there.
constexpr double kAtLimit = 1e-3;

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

// What stands behind `key` in the router's expression.
double number_in(std::string_view router, const std::string& key, double otherwise) {
  const size_t at = router.find(key);
  if (at == std::string_view::npos) return otherwise;
  const std::string rest(router.substr(at + key.size()));
  char* end = nullptr;
  const double value = std::strtod(rest.c_str(), &end);
  return end == rest.c_str() ? otherwise : value;
}

// K, which a run that is not done may tell by its router alone.
double choices_of(const Run& run, int layer) {
  const int64_t top_k = run.top_k_of(std::max(layer, 0));
  return top_k > 0 ? static_cast<double>(top_k) : std::max(1.0, number_in(run.router, "top_k(", 1));
}

void judge_entropy(const Run& run, double entropy, int layer, Check& check) {
  const double top_k = choices_of(run, layer), experts = static_cast<double>(run.experts_of(layer));
  // Where K is E a token may use fewer, and where E is not known K experts may be all: then one is what can be judged.
  const bool some = experts > top_k;
  const double room = some ? kPartOfEntropy * std::log(experts / top_k) : kNoEntropy;
  if (experts == 1 || !(entropy < (some ? std::log(top_k) : 0) + std::min(kNoEntropy, room))) return;
  check.fault(layer,
              fmt::format("the entropy of the load is {:.3f} nats: {} everything; raise the weight of the "
                          "balance loss",
                          entropy, some && top_k > 1 ? "no more experts than a token uses take" : "one expert takes"));
}

void judge_load(const Run& run, const Column& ratios, int layer, Check& check) {
  const int64_t experts = run.experts_of(std::max(layer, 0));
  if (experts == 0) return;
  const double top_k = choices_of(run, layer);
  const double most = static_cast<double>(experts) / top_k, ratio = median(last_part(ratios));
  const std::string figures =
      fmt::format("the busiest of {} experts has {:.2f} times the mean load, of {:.2f} at most", experts, ratio, most);
  if (most > 1 && ratio >= 1 + kCollapsed * (most - 1))
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

// "lo = 0.25" or "hi = 1.1" where the capacity is what that limit makes of the batch, else nothing. A share of 1 is
// capacity / factor tokens; what is counted in another unit is not judged, nor what has no room between its limits.
std::string limit_of(std::string_view router, double capacity, double factor) {
  const double lo = number_in(router, "lo=", 0.25), hi = number_in(router, "hi=", 1.1);
  const double tile = std::max(1.0, number_in(router, "tile=", 1)), unit = capacity / factor;
  if (!std::isfinite(unit) || router.find("per=token") != std::string_view::npos) return {};
  const auto tokens = [&](double share) { return std::ceil(std::ceil(share * unit) / tile) * tile; };
  const bool at_lo = capacity <= tokens(lo + kAtLimit), at_hi = capacity >= tokens(hi * (1 - kAtLimit));
  if (at_lo == at_hi) return {};
  return at_lo ? fmt::format("lo = {}", lo) : fmt::format("hi = {}", hi);
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
    judge_entropy(run, median(last_part((*entropies)[l])), static_cast<int>(l), check);
  if (!ratios && !worst && !entropies) return check.note("the run has no loads of experts");
  if ((ratios || worst) && run.experts_of(0) == 0)
    check.note("how many experts there are is not known: what the busiest of them has is not judged");
  check.otherwise_ok(worst ? fmt::format("the busiest expert has {:.2f} times the mean load", median(last_part(*worst)))
                           : "loads are spread");
}

void check_dead_experts(const Run& run, std::vector<Finding>& findings) {
  Check check("dead experts", findings);
  const Rows* layers = run.steps.find_layers("dead_experts");
  if (!layers) return check.note("the run does not count dead experts");
  const Rows* tokens = run.steps.find_layers("tokens_per_expert");
  bool judged = false;
  for (size_t l = 0; l < layers->size(); ++l) {
    if (tokens && l < tokens->size() && median(last_part((*tokens)[l])) < kLeastTokens) continue;
    judged = true;
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
  if (!judged)
    return check.note(fmt::format("fewer than {:.0f} tokens an expert in a step: some are idle by luck", kLeastTokens));
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
  const Rows* factors = run.steps.find_layers("capacity_factor");
  const bool adapts = capacity_adapts(run.router);
  for (size_t l = 0; adapts && layers && factors && l < std::min(layers->size(), factors->size()); ++l) {
    const Column part = last_part((*layers)[l]);
    const double low = least(part), high = greatest(part);
    if (std::isnan(low) || low != high) continue;
    const std::string limit = limit_of(run.router, low, median(last_part((*factors)[l])));
    if (limit.empty()) continue;
    const Rows* processed = run.steps.find_layers("processed_share");
    const double share = processed && l < processed->size() ? median(last_part((*processed)[l])) : NAN;
    check.warning(
        static_cast<int>(l),
        fmt::format("the capacity stands at {:.0f} tokens in each of the last {} steps, its limit {}{}: the rule "
                    "that should find it has no say; widen the clamp",
                    low, part.size(), limit,
                    std::isnan(share) ? "" : fmt::format(", and {:.1f} % of the pairs are kept", 100 * share)));
  }
  check.otherwise_ok(layers ? "no capacity rests at its clamp" : "no capacity is recorded");
}

}  // namespace choir::report
