#include "compress/budget.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "compress/kept_counts.h"
#include "compress/replay.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

using Of = Budget::Of;
using List = std::vector<int>;
constexpr double kInfinite = std::numeric_limits<double>::infinity();

// Some falling curve, not always convex.
LayerCurve random_curve(base::Rng& rng, int experts, int k, int groups = 1) {
  LayerCurve curve;
  curve.rule.k = k;
  curve.rule.groups = curve.rule.kept_groups = groups;
  curve.loss.assign(static_cast<size_t>(experts) + 1, 0.0);
  for (int r = experts - 1; r >= 0; --r) curve.loss[r] = curve.loss[r + 1] + rng.uniform() * (rng.below(3) ? 1 : 5);
  curve.bytes = 100 + static_cast<int64_t>(rng.below(5)) * 30;
  return curve;
}

// Every way to share the budget.
struct Brute {
  std::span<const LayerCurve> layers;
  Budget budget;
  double least = kInfinite;

  void search(size_t l, int64_t cost, double loss) {
    if (cost > budget.total) return;
    if (l == layers.size()) {
      least = std::min(least, loss);
      return;
    }
    for (int r = layers[l].rule.k + budget.slack; r <= layers[l].experts(); ++r)
      if (r % layers[l].rule.groups == 0 && r >= layers[l].least)
        search(l + 1, cost + r * (budget.of == Of::kBytes ? layers[l].bytes : 1),
               loss + layers[l].loss[static_cast<size_t>(r)]);
  }
};

int64_t cost_of(std::span<const LayerCurve> layers, const List& counts, Of of) {
  int64_t sum = 0;
  for (size_t l = 0; l < layers.size(); ++l) sum += counts[l] * (of == Of::kBytes ? layers[l].bytes : 1);
  return sum;
}

TEST_CASE("budget: the counts are the best of all that fit, by experts and by bytes, with groups, floors and slack") {
  base::Rng rng(17);
  int differs = 0;
  for (int round = 0; round < 60; ++round) {
    std::vector<LayerCurve> layers;
    for (int l = 0; l < 4; ++l) layers.push_back(random_curve(rng, 6 + 2 * (l % 2), 2, l == 3 ? 2 : 1));
    layers[0].least = 3;
    Budget budget{round % 2 ? Of::kBytes : Of::kExperts, 0, round % 3 == 0 ? 1 : 0};
    const int64_t all = cost_of(layers, {6, 8, 6, 8}, budget.of);
    budget.total = all * (55 + static_cast<int64_t>(rng.below(46))) / 100;
    Brute brute{layers, budget};
    brute.search(0, 0, 0);
    REQUIRE(std::isfinite(brute.least));
    const List counts = allocate(layers, budget);
    CHECK(total_loss(layers, counts) == doctest::Approx(brute.least).epsilon(1e-12));
    CHECK(cost_of(layers, counts, budget.of) <= budget.total);
    for (size_t l = 0; l < layers.size(); ++l) {
      CHECK(misfit(layers[l].rule, layers[l].experts(), counts[l]).empty());
      CHECK(counts[l] >= std::max(layers[l].least, 2 + budget.slack));
    }
    try {
      const List uniform = allocate_uniform(layers, budget);
      CHECK(cost_of(layers, uniform, budget.of) <= budget.total);
      CHECK(std::ranges::count(uniform, uniform[0]) == 4);
      CHECK(total_loss(layers, counts) <= total_loss(layers, uniform));
      differs += total_loss(layers, counts) < total_loss(layers, uniform);
    } catch (const base::Error&) {
    }
  }
  CHECK(differs > 10);
}

TEST_CASE("budget: costs too fine for the table are rounded up, within the budget and never worse than uniform") {
  base::Rng rng(2);
  for (int round = 0; round < 10; ++round) {
    std::vector<LayerCurve> layers;
    for (int l = 0; l < 3; ++l) {
      layers.push_back(random_curve(rng, 8, 2));
      layers.back().bytes = 50'000'017 + static_cast<int64_t>(rng.below(1000)) * 11;
    }
    const Budget budget{Of::kBytes, 50'000'017LL * 15, 0};
    const List counts = allocate(layers, budget);
    CHECK(cost_of(layers, counts, Of::kBytes) <= budget.total);
    try {
      CHECK(total_loss(layers, counts) <= total_loss(layers, allocate_uniform(layers, budget)));
    } catch (const base::Error&) {
    }
  }
  // The budget of exactly uniform counts, which rounding up would just refuse.
  std::vector<LayerCurve> layers(2, random_curve(rng, 8, 2));
  layers[0].bytes = 1'000'000'007;
  layers[1].bytes = 1'000'000'009;
  const Budget exact{Of::kBytes, 4 * (layers[0].bytes + layers[1].bytes), 0};
  const List counts = allocate(layers, exact);
  CHECK(allocate_uniform(layers, exact) == List{4, 4});
  CHECK(total_loss(layers, counts) <= total_loss(layers, {4, 4}));
  CHECK(cost_of(layers, counts, Of::kBytes) <= exact.total);
}

TEST_CASE("budget: unknown losses are not taken, equal sums go to the smaller count behind") {
  LayerCurve curve;
  curve.rule.k = 1;
  curve.loss = {kInfinite, kInfinite, 3, 2, 1};
  const std::vector<LayerCurve> layers{curve, curve};
  CHECK(allocate(layers, {Of::kExperts, 5, 0}) == List{3, 2});
  CHECK(allocate(layers, {Of::kExperts, 100, 0}) == List{4, 4});
  CHECK(allocate_uniform(layers, {Of::kExperts, 5, 0}) == List{2, 2});
  CHECK_THROWS_WITH_AS(allocate(layers, {Of::kExperts, 3, 0}),
                       "a budget of 3 experts: budget: the layers need 4 at least", base::Error);
  std::vector<LayerCurve> unknown = layers;
  std::ranges::fill(unknown[1].loss, kInfinite);
  CHECK_THROWS_WITH_AS(allocate(unknown, {Of::kExperts, 8, 0}), doctest::Contains("layer 1"), base::Error);
  std::vector<LayerCurve> apart{curve, curve};
  apart[0].loss = {kInfinite, kInfinite, 3, kInfinite, kInfinite};
  apart[1].loss = {kInfinite, kInfinite, kInfinite, 2, kInfinite};
  CHECK(allocate(apart, {Of::kExperts, 8, 0}) == List{2, 3});
  CHECK_THROWS_WITH_AS(allocate_uniform(apart, {Of::kExperts, 8, 0}), doctest::Contains("no count suits"), base::Error);
}

TEST_CASE("budget: on curves of real layers, normalised, the shared budget beats the uniform one or equals it") {
  base::Threads threads(2);
  std::vector<LayerCurve> layers;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const ObservedLayer layer({kTestRules[seed < 4 ? 1 + seed : 7].router, 12, 3, 60, 12, 5, seed});
    Replay replay(layer.record, {}, threads);
    LayerCurve curve;
    curve.rule = layer.record.rule;
    curve.loss.assign(13, kInfinite);
    curve.loss[12] = replay.loss();
    for (int r = 11; r >= 3; --r) {  // backward elimination
      const auto changes = replay.removals();
      int least = -1;
      for (int e = 0; e < 12; ++e)
        if (replay.kept()[static_cast<size_t>(e)] && (least < 0 || changes[e] < changes[least])) least = e;
      replay.remove(least);
      curve.loss[static_cast<size_t>(r)] = replay.loss();
    }
    const double whole = output_energy(layer.record, {});
    for (double& loss : curve.loss) loss /= whole;
    layers.push_back(curve);
  }
  for (const int64_t total : {20, 28, 36, 44}) {
    const Budget budget{Of::kExperts, total, 0};
    CHECK(total_loss(layers, allocate(layers, budget)) <= total_loss(layers, allocate_uniform(layers, budget)));
  }
}

TEST_CASE("budget: the energies are those of the layer's output and of the stream") {
  const ObservedLayer layer({kTestRules[2].router, 12, 3, 30, 8});
  std::vector<double> weight;
  double output = 0, stream = 0, weighted = 0;
  for (int t = 0; t < 30; ++t) {
    weight.push_back(0.5 + t % 3);
    for (int d = 0; d < ObservedLayer::kWidth; ++d) {
      const auto i = static_cast<size_t>(t * ObservedLayer::kWidth + d);
      const double z = layer.z.span()[i], h = layer.middle.span()[i];
      output += z * z;
      weighted += weight.back() * z * z;
      stream += h * h;
    }
  }
  CHECK(output_energy(layer.record, {}) == doctest::Approx(output).epsilon(1e-5));
  CHECK(output_energy(layer.record, weight) == doctest::Approx(weighted).epsilon(1e-5));
  CHECK(residual_energy(layer.record, {}) == doctest::Approx(stream).epsilon(1e-5));
}

TEST_CASE("budget: the bytes of an expert are those of its tensors and its row of the gate") {
  const TestModel made(small_config(8, 2, 1));
  CHECK(expert_bytes(*made.model, 0) == 4 * (3 * 20 * 12 + 20));
}

}  // namespace
}  // namespace choir::compress
