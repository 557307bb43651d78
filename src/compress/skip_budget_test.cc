#include "compress/skip_budget.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "compress/skip.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

using moe::Skip;

const GainRule kOwn{}, kKept{GainRule::Over::kKept};

struct Form {
  const char* router;
  int experts, top_k;
  Skip::By by;
};

constexpr Form kForms[] = {
    {"linear > top_k(2) > all > chosen", 6, 2, Skip::By::kRatio},
    {"linear > top_k(2) > all > chosen", 6, 2, Skip::By::kTail},
    {"linear > top_k(4) > all > softmax(renorm)", 9, 4, Skip::By::kTail},
    {"linear > top_k(4) > all > softmax(renorm)", 9, 4, Skip::By::kBest},
    {"linear(sigmoid) > top_k(4) > all > sigmoid_norm(scale=2.5) + bias(0.001)", 9, 4, Skip::By::kTail},
    {"linear > top_k(3) > all > sigmoid", 9, 3, Skip::By::kBest},
    {"linear > groups(3, 2, 3) > all > softmax(renorm)", 9, 3, Skip::By::kTail},
};

// The layer run again at a cut of its curve.
struct Again {
  double error = 0;
  int64_t saved = 0;

  Again(const ObservedLayer& layer, const Form& form, const SkipCurve& curve, size_t rule, size_t cut) {
    const std::string full = layer.made.model->router(0).expression();
    const std::string text = Skip{.beta = curve.threshold[cut], .by = form.by}.text();
    int64_t edges = 0;
    const auto errors = layer.run_again(
        moe::with_weights(moe::with_admission(full, text), weigh_word(layer.record.rule, curve.rules[rule])), &edges);
    for (size_t t = 0; t < errors.size(); ++t) {
      const double answer = skip_prefix(layer.record, static_cast<int>(t), 0).answer;
      error += errors[t] / (static_cast<double>(layer.record.residual[t]) + answer);
    }
    saved = curve.evaluations - edges;
  }
};

TEST_CASE("skip curve: each threshold saves and costs what the layer run again by it does") {
  for (const Form& form : kForms) {
    CAPTURE(form.router);
    const ObservedLayer layer(form.router, form.experts, form.top_k);
    const auto rules = gain_rules(layer.record.rule, form.top_k, form.experts);
    const SkipCurve curve = skip_curve(layer.record, form.by, rules);
    const size_t cuts = curve.threshold.size();
    CHECK(curve.evaluations == int64_t{ObservedLayer::kTokens} * form.top_k);
    CHECK(curve.threshold.front() == 0);
    CHECK(curve.saved.front() == 0);
    CHECK(curve.saved.back() == int64_t{ObservedLayer::kTokens} * (form.top_k - 1));
    CHECK(std::ranges::is_sorted(curve.threshold, std::less_equal<>()));
    CHECK(std::ranges::is_sorted(curve.saved, std::less_equal<>()));
    CHECK(curve.error[0] < 1e-5);  // nothing skipped, the layer's own divisor
    for (size_t r = 0; r < rules.size(); ++r)
      for (size_t c = 0; c < cuts; c += 1 + cuts / 9) {
        const Again again(layer, form, curve, r, c);
        CHECK(again.saved == curve.saved[c]);
        CHECK(curve.error_of(r, c) == doctest::Approx(again.error).epsilon(1e-5));
      }
  }
}

TEST_CASE("skip curve: fewer cuts are some of all the cuts") {
  const Form& form = kForms[2];
  const ObservedLayer layer(form.router, form.experts, form.top_k);
  const std::vector<GainRule> rules{kOwn, kKept};
  const SkipCurve all = skip_curve(layer.record, form.by, rules), few = skip_curve(layer.record, form.by, rules, 20);
  CHECK(all.threshold.size() > 200);
  CHECK((few.threshold.size() > 10 && few.threshold.size() <= 20));
  CHECK(few.saved.back() == all.saved.back());
  for (size_t c = 0; c < few.threshold.size(); ++c) {
    const auto same = static_cast<size_t>(std::ranges::find(all.saved, few.saved[c]) - all.saved.begin());
    REQUIRE(same < all.saved.size());
    CHECK(few.threshold[c] == all.threshold[same]);
    for (size_t r = 0; r < 2; ++r) CHECK(few.error_of(r, c) == doctest::Approx(all.error_of(r, same)).epsilon(1e-9));
  }
}

std::vector<SkipCurve> some_curves(const Form& form, std::span<const GainRule> rules, int layers) {
  std::vector<SkipCurve> curves;
  for (int l = 0; l < layers; ++l) {
    const ObservedLayer layer(form.router, form.experts, form.top_k, 20 + static_cast<uint64_t>(l));
    curves.push_back(skip_curve(layer.record, form.by, rules));
  }
  return curves;
}

// The last cut whose threshold is at most this one: what a threshold from elsewhere does.
size_t cut_at(const SkipCurve& curve, float threshold) {
  return static_cast<size_t>(std::ranges::upper_bound(curve.threshold, threshold) - curve.threshold.begin()) - 1;
}

struct Outcome {
  int64_t saved = 0;
  double error = 0;
};

// By the gain rule at place 0.
template <class Cut>
Outcome outcome(std::span<const SkipCurve> curves, const Cut& cut) {
  Outcome sum;
  for (const SkipCurve& curve : curves) {
    const size_t c = cut(curve);
    sum.saved += curve.saved[c];
    sum.error += curve.error_of(0, c);
  }
  return sum;
}

TEST_CASE("skip plan: never worse than one threshold for all layers or a quantile of each, at equal evaluations") {
  for (const Form& form : kForms) {
    CAPTURE(form.router);
    const bool renormalises = std::string(form.router).ends_with("chosen");
    const std::vector<GainRule> own{renormalises ? kKept : kOwn};
    const auto curves = some_curves(form, own, 3);
    for (int i = 1; i < 20; ++i) {
      const float global = static_cast<float>(i) / 20;
      const auto quantile = [&](const SkipCurve& curve) {
        return curve.threshold.size() * static_cast<size_t>(i) / 20;
      };
      for (const Outcome& rival : {outcome(curves, [&](const SkipCurve& curve) { return cut_at(curve, global); }),
                                   outcome(curves, quantile)}) {
        const SkipPlan plan = plan_skipping(curves, rival.saved);
        CHECK(plan.saved >= rival.saved);
        CHECK(plan.error <= rival.error * (1 + 1e-12) + 1e-12);
      }
    }
  }
}

// Every pair of points of two layers with few cuts.
template <class Function>
void each_pair(const std::vector<SkipCurve>& curves, const Function& function) {
  for (size_t i = 0; i < curves[0].error.size(); ++i)
    for (size_t j = 0; j < curves[1].error.size(); ++j)
      function(curves[0].saved[i % curves[0].saved.size()] + curves[1].saved[j % curves[1].saved.size()],
               curves[0].error[i] + curves[1].error[j]);
}

TEST_CASE("skip plan: what a multiplier gives is the best of all that save as much; others are near its bound") {
  std::vector<SkipCurve> curves;
  for (const uint64_t seed : {31, 32}) {
    const ObservedLayer layer("linear > top_k(3) > all > softmax(renorm)", 8, 3, seed);
    curves.push_back(skip_curve(layer.record, Skip::By::kTail, std::vector<GainRule>{kOwn, kKept}, 12));
  }
  const int64_t most = curves[0].saved.back() + curves[1].saved.back();
  const auto check = [&](int64_t target, std::optional<double> expected) {
    const SkipPlan plan = plan_skipping(curves, target);
    int64_t saved = 0;
    double error = 0, least_value = HUGE_VAL, least_error = HUGE_VAL;
    for (size_t l = 0; l < 2; ++l) {
      error += curves[l].error_of(plan.layers[l].rule, plan.layers[l].cut);
      saved += curves[l].saved[plan.layers[l].cut];
    }
    CHECK(plan.saved == saved);
    CHECK(plan.saved >= target);
    CHECK(plan.error == doctest::Approx(error).epsilon(1e-12));
    each_pair(curves, [&](int64_t s, double e) {
      least_value = std::min(least_value, e - plan.lambda * static_cast<double>(s));
      if (s >= target) least_error = std::min(least_error, e);
    });
    CHECK(plan.error >= least_error - 1e-12);
    CHECK(least_error >= least_value + plan.lambda * static_cast<double>(target) - 1e-9);  // duality
    if (expected) CHECK(plan.error == doctest::Approx(*expected).epsilon(1e-9));
  };
  for (const double share : {0.0, 0.1, 0.35, 0.6, 0.9, 1.0})
    check(static_cast<int64_t>(share * static_cast<double>(most)), {});
  for (const double lambda : {0.02, 0.1, 0.2, 0.3, 0.5, 1.0}) {
    double value = HUGE_VAL, error = 0;
    int64_t saved = 0;
    each_pair(curves, [&](int64_t s, double e) {
      if (e - lambda * static_cast<double>(s) >= value) return;
      value = e - lambda * static_cast<double>(s);
      error = e;
      saved = s;
    });
    CAPTURE(lambda);
    check(saved, error);
  }
  CHECK(plan_skipping(curves, most).layers[0].cut + 1 == curves[0].threshold.size());
  CHECK_THROWS_AS(plan_skipping(curves, most + 1), base::Error);
}

// The share of the first layer's evaluations that a model skips.
double first_layer_share(const Model& model, std::span<const CalibrationBatch> batches) {
  base::Threads threads(1);
  int64_t run = 0, asked = 0;
  model::Scratch scratch;
  for (const CalibrationBatch& batch : batches) {
    const auto sequences = sequences_of(batch);
    const tensor::Buffer<float> logits(sequences.size() * static_cast<size_t>(model.config().vocab));
    const auto observer = [&](int l, const moe::Routing& routing) {
      if (l > 0) return;
      run += routing.plan.edges();
      asked += int64_t{routing.plan.tokens} * routing.plan.choices;
    };
    model::forward(model, {batch.ids, sequences}, {.rows = model::Rows::kLast, .observer = observer}, scratch,
                   logits.matrix(batch.sequences, model.config().vocab), threads);
  }
  return 1 - static_cast<double>(run) / static_cast<double>(asked);
}

TEST_CASE("skip budget: a model that keeps its share, measured at full work whatever it skipped before") {
  base::Threads threads(2);
  const auto batches = random_batches(2, 2, 20, 31);
  for (const auto& [router, k, by] :
       {std::tuple{"", 2, Skip::By::kRatio},
        {"", 3, Skip::By::kTail},
        {"linear > top_k(3) > skip(tail=0.5) > chosen(over=4)", 3, Skip::By::kBest},
        {"linear(sigmoid) > top_k(4) > all > sigmoid_norm + bias(0.1)", 4, Skip::By::kTail}}) {
    CAPTURE(router);
    model::Config config = small_config(6, k, 3);
    for (model::LayerConfig& layer : config.layers) layer.router = router;
    const TestModel made(config);
    for (const double keep : {1.0, 0.7, 0.5}) {
      const SkipBudget budget{.by = by, .keep = keep};
      const BudgetResult result = budget_skipping(*made.model, batches, budget, threads);
      CHECK(result.kept_share <= keep + 1e-9);
      CHECK(result.kept_share > keep - 0.05);
      REQUIRE(result.layers.size() == 3);
      for (const LayerSaving& layer : result.layers) {
        CHECK(layer.evaluations == 80 * k);
        CHECK(layer.error <= layer.own_error * (1 + 1e-9) + 1e-9);
        const std::string text = result.config.layers[layer.layer].router;
        CHECK(text.find("> " + Skip{.beta = layer.threshold, .by = by}.text() + " > " + layer.weights) !=
              std::string::npos);
      }
      CHECK(result.frontier.front().keep == doctest::Approx(1));
      CHECK(result.frontier.back().keep == doctest::Approx(1.0 / k));
      for (size_t i = 1; i < result.frontier.size(); ++i)
        CHECK(result.frontier[i].error >= result.frontier[i - 1].error - 1e-12);
      const Model skipping = skipping_model(*made.model, result);
      CHECK(first_layer_share(skipping, batches) ==
            doctest::Approx(static_cast<double>(result.layers[0].saved) / (80 * k)));
    }
  }
}

TEST_CASE("skip budget: own gains leave the weigh word alone; the number of threads changes nothing") {
  const TestModel made(small_config(6, 2, 2));
  base::Threads one(1), three(3);
  const auto batches = random_batches(2, 2, 20, 31);
  const SkipBudget budget{.by = Skip::By::kTail, .keep = 0.7, .divisors = Divisors::kOwn};
  const BudgetResult a = budget_skipping(*made.model, batches, budget, one),
                     b = budget_skipping(*made.model, batches, budget, three);
  for (const LayerSaving& layer : a.layers) {
    CHECK(layer.weights == "chosen");
    CHECK(layer.error == layer.own_error);
  }
  CHECK(a.config.layers == b.config.layers);
  CHECK(a.layers[0].error == b.layers[0].error);
  const BudgetResult best = budget_skipping(*made.model, batches, {.by = Skip::By::kTail, .keep = 0.7}, one);
  double own = 0, chosen = 0;
  for (const LayerSaving& layer : a.layers) own += layer.error;
  for (const LayerSaving& layer : best.layers) chosen += layer.error;
  CHECK(chosen < own);
}

TEST_CASE("skip budget: refuses what cannot be") {
  const TestModel two(small_config(6, 2, 1)), three(small_config(6, 3, 1));
  base::Threads threads(1);
  const auto batches = random_batches(1, 1, 9, 31);
  const auto refused = [&](const Model& model, const SkipBudget& budget) {
    CHECK_THROWS_AS(budget_skipping(model, batches, budget, threads), base::Error);
  };
  refused(*two.model, {.keep = 0.49});
  refused(*two.model, {.keep = 1.01});
  refused(*three.model, {.keep = 0.3});
  refused(*three.model, {.by = Skip::By::kRatio, .keep = 0.5});
  CHECK_NOTHROW(budget_skipping(*two.model, batches, {.keep = 0.5}, threads));
  two.numbers[0][40] = INFINITY;
  const auto more = random_batches(1, 2, 30, 31);
  CHECK_THROWS_AS(budget_skipping(*two.model, more, {.keep = 0.5}, threads), base::Error);
}

}  // namespace
}  // namespace choir::compress
