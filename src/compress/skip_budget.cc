#include "compress/skip_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "compress/choose.h"
#include "compress/observe.h"

namespace choir::compress {
namespace {

using moe::Skip;

// A threshold that skips at `feature` and no more at `next`.
float between(float feature, float next, bool strict) {
  const float middle = feature + (next - feature) / 2;
  if (strict) return middle > feature ? middle : next;
  return std::max(middle < next ? middle : feature, std::numeric_limits<float>::min());  // for 0 skips nothing
}

// Where every token is skipped whatever its feature, which is at most 1.
float above_all(bool strict) { return strict ? std::nextafter(1.0f, 2.0f) : 1.0f; }

std::vector<float> features_of(const LayerRecord& record, Skip::By by) {
  std::vector<float> all, own;
  for (int t = 0; t < record.tokens(); ++t) {
    const std::vector<float> weight = skip_prefix(record, t, 0).weight;
    own.resize(weight.size());
    Skip::features(by, weight, own);
    all.insert(all.end(), own.begin(), own.end() - 1);
  }
  std::ranges::sort(all);
  return all;
}

// Fills thresholds and what they save; returns the largest feature that each skips.
std::vector<float> cut(const std::vector<float>& sorted, Skip::By by, size_t most, SkipCurve& curve) {
  const bool strict = by == Skip::By::kRatio;
  std::vector<float> last{-HUGE_VALF};
  curve.threshold = {0};
  curve.saved = {0};
  const size_t step = std::max<size_t>(1, (sorted.size() + most - 2) / (most - 1));
  for (size_t end = 0, wanted = step; end < sorted.size(); wanted = end + step) {
    const float feature = sorted[std::min(wanted, sorted.size()) - 1];
    end = static_cast<size_t>(std::ranges::upper_bound(sorted, feature) - sorted.begin());
    last.push_back(feature);
    curve.saved.push_back(static_cast<int64_t>(end));
    curve.threshold.push_back(end < sorted.size() ? between(feature, sorted[end], strict) : above_all(strict));
  }
  return last;
}

SkipPlan::Point best_point(const SkipCurve& curve, double lambda) {
  SkipPlan::Point best;
  double least = HUGE_VAL;
  for (size_t r = 0; r < curve.rules.size(); ++r)
    for (size_t c = 0; c < curve.threshold.size(); ++c) {
      const double value = curve.error_of(r, c) - lambda * static_cast<double>(curve.saved[c]);
      if (value < least || (value == least && curve.saved[c] > curve.saved[best.cut])) {
        best = {r, c};
        least = value;
      }
    }
  return best;
}

SkipPlan plan_at(std::span<const SkipCurve> curves, double lambda) {
  SkipPlan plan;
  plan.lambda = lambda;
  for (const SkipCurve& curve : curves) {
    const SkipPlan::Point point = best_point(curve, lambda);
    plan.layers.push_back(point);
    plan.saved += curve.saved[point.cut];
    plan.error += curve.error_of(point.rule, point.cut);
  }
  return plan;
}

// Of each cut of a layer the best rule, and the best point from there on.
struct Stairs {
  std::vector<SkipPlan::Point> at, from;

  explicit Stairs(const SkipCurve& curve) {
    const auto worse = [&](SkipPlan::Point a, SkipPlan::Point b) {
      return curve.error_of(a.rule, a.cut) > curve.error_of(b.rule, b.cut);
    };
    for (size_t c = 0; c < curve.threshold.size(); ++c) {
      at.push_back({0, c});
      for (size_t r = 1; r < curve.rules.size(); ++r)
        if (worse(at.back(), {r, c})) at.back() = {r, c};
    }
    from = at;
    for (size_t c = from.size() - 1; c-- > 0;)
      if (worse(from[c], from[c + 1])) from[c] = from[c + 1];
  }
};

// A multiplier alone meets few targets exactly, for layers are not convex everywhere: one layer or two at a time move
// to where the target is met with less error.
class Exchange {
 public:
  Exchange(std::span<const SkipCurve> curves, int64_t target) : curves_(curves), target_(target) {
    for (const SkipCurve& curve : curves) stairs_.emplace_back(curve);
  }

  // Afterwards the plan saves the target, or no two layers can make it do so.
  void improve(SkipPlan& plan) const {
    while (step(plan)) {
    }
  }

 private:
  struct Move {
    size_t layer = SIZE_MAX, other = SIZE_MAX;
    SkipPlan::Point to, other_to;
    double change = 0;
  };

  double change(const SkipPlan& plan, size_t layer, SkipPlan::Point to) const {
    const SkipPlan::Point now = plan.layers[layer];
    return curves_[layer].error_of(to.rule, to.cut) - curves_[layer].error_of(now.rule, now.cut);
  }
  int64_t gain(const SkipPlan& plan, size_t layer, SkipPlan::Point to) const {
    return curves_[layer].saved[to.cut] - curves_[layer].saved[plan.layers[layer].cut];
  }

  // The best that `layer` can do when `spare` evaluations beyond the target may be given back, after `first`.
  void consider(const SkipPlan& plan, size_t layer, int64_t spare, const Move& first, Move& best) const {
    const std::vector<int64_t>& saved = curves_[layer].saved;
    const auto cut = std::ranges::lower_bound(saved, saved[plan.layers[layer].cut] - spare) - saved.begin();
    if (cut == std::ssize(saved)) return;
    const SkipPlan::Point to = stairs_[layer].from[static_cast<size_t>(cut)];
    const double sum = first.change + change(plan, layer, to);
    if (sum < best.change) best = {first.layer, layer, first.to, to, sum};
  }

  bool step(SkipPlan& plan) const {
    constexpr double kWorthIt = 1e-9;  // of the error
    const int64_t spare = plan.saved - target_;
    Move best;
    best.change = spare >= 0 ? -kWorthIt * plan.error : HUGE_VAL;
    for (size_t l = 0; l < curves_.size(); ++l) {
      consider(plan, l, spare, {}, best);
      for (const SkipPlan::Point to : stairs_[l].at)
        for (size_t other = 0; other < curves_.size(); ++other)
          if (other != l)
            consider(plan, other, spare + gain(plan, l, to), {l, SIZE_MAX, to, {}, change(plan, l, to)}, best);
    }
    if (best.other == SIZE_MAX) return false;
    for (const auto& [layer, to] : {std::pair{best.layer, best.to}, {best.other, best.other_to}}) {
      if (layer == SIZE_MAX) continue;
      plan.saved += gain(plan, layer, to);
      plan.layers[layer] = to;
    }
    plan.error += best.change;
    return true;
  }

  std::span<const SkipCurve> curves_;
  int64_t target_;
  std::vector<Stairs> stairs_;
};

// What the layer's own weigh word is when experts are skipped.
GainRule own_rule(const std::string& router, const moe::SubsetRule& rule) {
  const GainRule kept{GainRule::Over::kKept};
  return moe::with_weights(router, weigh_word(rule, kept)) == router ? kept : GainRule{};
}

void check_feature(const model::Config& config, Skip::By by) {
  for (int l = 0; l < config.depth() && by == Skip::By::kRatio; ++l)
    if (!config.layers[l].dense() && config.layers[l].top_k != 2)
      base::usage_error("the ratio of weights is defined for top-2 routing", "layer " + std::to_string(l),
                        fmt::format("this one uses {} experts for each token: tail or ser", config.layers[l].top_k));
}

int64_t target_of(std::span<const SkipCurve> curves, double keep) {
  int64_t evaluations = 0, most = 0;
  for (const SkipCurve& curve : curves) {
    evaluations += curve.evaluations;
    most += curve.saved.back();
  }
  return std::min(most, static_cast<int64_t>(std::ceil((1 - keep) * static_cast<double>(evaluations) - 1e-6)));
}

std::vector<SkipFrontier> frontier_of(std::span<const SkipCurve> curves) {
  constexpr int kPoints = 10;
  int64_t evaluations = 0, tokens = 0, most = 0;
  for (const SkipCurve& curve : curves) {
    evaluations += curve.evaluations;
    tokens += curve.tokens;
    most += curve.saved.back();
  }
  std::vector<SkipFrontier> frontier;
  for (int i = 0; i <= kPoints; ++i) {
    const SkipPlan plan = plan_skipping(curves, most * i / kPoints);
    frontier.push_back({1 - static_cast<double>(plan.saved) / static_cast<double>(evaluations),
                        plan.error / static_cast<double>(tokens)});
  }
  return frontier;
}

}  // namespace

SkipCurve skip_curve(const LayerRecord& record, Skip::By by, std::span<const GainRule> rules, int most) {
  CHOIR_CHECK(by != Skip::By::kCount && most > 1, "a feature, and a threshold besides 0");
  SkipCurve curve;
  curve.rules.assign(rules.begin(), rules.end());
  const std::vector<float> last = cut(features_of(record, by), by, static_cast<size_t>(most), curve);
  int best = 0;
  for (const GainRule& rule : rules) best = std::max(best, rule.best);
  const size_t cuts = last.size();
  curve.error.assign(rules.size() * cuts, 0.0);
  curve.tokens = record.tokens();
  std::vector<float> feature;
  for (int t = 0; t < record.tokens(); ++t) {
    const SkipPrefix prefix = skip_prefix(record, t, best);
    const int k = static_cast<int>(prefix.weight.size());
    const double stream = record.residual[static_cast<size_t>(t)] + prefix.answer, weight = stream > 0 ? 1 / stream : 0;
    feature.resize(prefix.weight.size());
    Skip::features(by, prefix.weight, feature);
    curve.evaluations += k;
    for (size_t r = 0; r < rules.size(); ++r) {
      double error = skip_error(record.rule, prefix, k, rules[r]);
      curve.error[r * cuts] += weight * error;
      for (int i = k - 1; i > 0; --i) {
        const auto at = std::ranges::lower_bound(last, feature[static_cast<size_t>(i) - 1]) - last.begin();
        const double next = skip_error(record.rule, prefix, i, rules[r]);
        curve.error[r * cuts + static_cast<size_t>(at)] += weight * (next - error);
        error = next;
      }
    }
  }
  for (size_t r = 0; r < rules.size(); ++r)
    for (size_t c = 1; c < cuts; ++c) curve.error[r * cuts + c] += curve.error[r * cuts + c - 1];
  return curve;
}

SkipPlan plan_skipping(std::span<const SkipCurve> curves, int64_t target) {
  int64_t most = 0;
  double high = 1;  // more than all errors together: whatever can be saved is
  for (const SkipCurve& curve : curves) {
    most += curve.saved.back();
    high += *std::ranges::max_element(curve.error);
  }
  if (target > most)
    base::usage_error(fmt::format("{} evaluations to save", target), "--budget",
                      fmt::format("with one expert a token {} are saved", most));
  SkipPlan plan = plan_at(curves, 0);
  double low = 0;
  if (plan.saved >= target) return plan;
  SkipPlan less = std::exchange(plan, plan_at(curves, high));
  for (int step = 0; step < 100; ++step) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    SkipPlan tried = plan_at(curves, middle);
    (tried.saved < target ? low : high) = middle;
    (tried.saved < target ? less : plan) = std::move(tried);
  }
  const Exchange exchange(curves, target);
  exchange.improve(plan);
  exchange.improve(less);
  return less.saved >= target && less.error < plan.error ? less : plan;
}

const char* name_of(Divisors divisors) {
  constexpr const char* kNames[] = {"least error", "own", "kept"};
  return kNames[static_cast<size_t>(divisors)];
}

SkipStudy::SkipStudy(const Model& model, Skip::By by, Divisors divisors)
    : full_(model.with_admission("all")), by_(by), divisors_(divisors) {
  check_feature(model.config(), by);
}

double SkipStudy::least() const {
  int64_t choices = 0;
  int mixtures = 0;
  for (const model::LayerConfig& layer : full_.config().layers) {
    choices += layer.top_k;
    mixtures += !layer.dense();
  }
  return static_cast<double>(mixtures) / static_cast<double>(choices);
}

void SkipStudy::check(double keep) const {
  if (!(keep >= least() && keep <= 1))
    base::usage_error(fmt::format("a budget of {} of the expert evaluations", keep), "--budget",
                      fmt::format("one expert always stays: from {:.4g} to 1", least()));
}

void SkipStudy::add(const LayerRecord& record) {
  const int l = records_++;
  if (record.experts == 0) return;  // a dense layer
  const auto finite = [](const auto& list) {
    return std::ranges::all_of(list, [](auto v) { return std::isfinite(v); });
  };
  if (!finite(record.p) || !finite(record.gram)) full_.refuse_result("the answers of layer " + std::to_string(l));
  const GainRule own = own_rule(full_.router(l).expression(), record.rule), kept{GainRule::Over::kKept};
  const std::vector<GainRule> known = gain_rules(record.rule, record.rule.k, record.experts);
  std::vector<GainRule> rules{own};
  if (divisors_ == Divisors::kKept && std::ranges::count(known, kept)) rules = {kept};
  for (const GainRule& rule : known)
    if (divisors_ == Divisors::kLeastError && rule != own) rules.push_back(rule);
  curves_.push_back(skip_curve(record, by_, rules));
  layers_.push_back(l);
  kinds_.push_back(record.rule);
}

BudgetResult SkipStudy::at(double keep) const {
  check(keep);
  CHOIR_CHECK(records_ == full_.config().depth(), "a record of each layer");
  BudgetResult result;
  result.config = full_.config();
  const SkipPlan plan = plan_skipping(curves_, target_of(curves_, keep));
  int64_t evaluations = 0;
  for (size_t l = 0; l < curves_.size(); ++l) {
    const SkipCurve& curve = curves_[l];
    const auto [rule, cut] = plan.layers[l];
    const auto tokens = static_cast<double>(curve.tokens);
    const Skip skip{.beta = curve.threshold[cut], .by = by_};
    LayerSaving& layer = result.layers.emplace_back();
    layer.layer = layers_[l];
    layer.threshold = skip.beta;
    layer.evaluations = curve.evaluations;
    layer.saved = curve.saved[cut];
    layer.skipped_share =
        static_cast<double>(layer.saved) / static_cast<double>(std::max<int64_t>(1, curve.evaluations - curve.tokens));
    layer.error = curve.error_of(rule, cut) / tokens;
    layer.own_error = curve.error_of(0, cut) / tokens;
    layer.weights = weigh_word(kinds_[l], curve.rules[rule]);
    const std::string skipping = moe::with_admission(full_.router(layer.layer).expression(), skip.text());
    result.config.layers[layer.layer].router = moe::with_weights(skipping, layer.weights);
    evaluations += curve.evaluations;
  }
  result.kept_share = 1 - static_cast<double>(plan.saved) / static_cast<double>(evaluations);
  result.lambda = plan.lambda;
  return result;
}

std::vector<SkipFrontier> SkipStudy::frontier() const { return frontier_of(curves_); }

void study_skipping(const Model& model, std::span<const CalibrationBatch> batches, std::span<SkipStudy> studies,
                    Threads& threads, const Progress& progress) {
  int ranks = 1;
  for (const model::LayerConfig& layer : model.config().layers) ranks = std::max(ranks, layer.top_k);
  const auto take = [&](int, const LayerRecord& record) {
    for (SkipStudy& study : studies) study.add(record);
  };
  observe(model.with_admission("all"), batches, {.ranks = ranks}, take, threads, progress);
}

BudgetResult budget_skipping(const Model& model, std::span<const CalibrationBatch> batches, const SkipBudget& budget,
                             Threads& threads, const Progress& progress) {
  SkipStudy study(model, budget.by, budget.divisors);
  study.check(budget.keep);
  study_skipping(model, batches, {&study, 1}, threads, progress);
  BudgetResult result = study.at(budget.keep);
  result.frontier = study.frontier();
  return result;
}

Model skipping_model(const Model& model, const BudgetResult& result) {
  std::vector<std::vector<int>> everything;
  for (const model::LayerConfig& layer : result.config.layers) everything.push_back(others({}, layer.experts));
  return model.with_admission("all").with_layers(result.config, everything);
}

}  // namespace choir::compress
