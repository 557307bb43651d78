#include "compress/select.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "compress/criteria.h"
#include "compress/kept_counts.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

moe::SubsetRule rule_of(int k, int groups = 1, int kept_groups = 1, bool top_two = false) {
  moe::SubsetRule rule;
  rule.k = k;
  rule.groups = groups;
  rule.kept_groups = kept_groups;
  rule.by_top_two = top_two;
  return rule;
}

using List = std::vector<int>;

std::vector<List> kept_over_layers(const std::vector<ScoredLayer>& layers, int64_t total, int slack) {
  std::vector<List> kept;
  for (const int count : counts_over_layers(layers, total, slack))
    kept.push_back(choose_by_score(layers[kept.size()], count));
  return kept;
}

TEST_CASE("counts: what a layer cannot be left with is said, by each condition") {
  CHECK(misfit(rule_of(2), 8, 2).empty());
  CHECK(misfit(rule_of(2), 8, 1) == "1 experts kept, each token uses 2");
  CHECK(misfit(rule_of(2), 8, 9) == "9 experts kept, there are 8");
  CHECK(misfit(rule_of(2), 8, 0) == "0 experts kept, each token uses 2");
  CHECK(misfit(rule_of(4, 4, 2), 16, 10) == "10 experts kept, the router's 4 groups must stay equally large");
  CHECK(misfit(rule_of(4, 4, 2), 16, 4) == "4 experts kept, 2 of 4 groups must hold the 4 experts of a token");
  CHECK(misfit(rule_of(1, 4, 1, true), 16, 4) == "4 experts kept, each of 4 groups is worth its two best experts");
  CHECK(misfit(rule_of(1, 4, 1, true), 16, 8).empty());
  CHECK(least_count(rule_of(2), 8) == 2);
  CHECK(least_count(rule_of(4, 4, 2), 16) == 8);
}

TEST_CASE("select: the best scores stay, ties by the lower number, pinned ones always") {
  const std::vector<double> score{1, 3, 2, 3, 0, 2};
  CHECK(choose_by_score({rule_of(1), score}, 2) == List{1, 3});
  CHECK(choose_by_score({rule_of(1), score}, 3) == List{1, 2, 3});
  CHECK(choose_by_score({rule_of(1), score, {4}}, 3) == List{1, 3, 4});
  CHECK(choose_by_score({rule_of(1, 2, 2), score}, 4) == List{1, 2, 3, 5});
  CHECK(choose_by_score({rule_of(1, 3, 3), score, {4}}, 3) == List{1, 3, 4});
  CHECK_THROWS_WITH_AS(choose_by_score({rule_of(1, 3, 3), score}, 4),
                       doctest::Contains("must stay equally large: keep: the least is 3"), base::Error);
  CHECK_THROWS_WITH_AS(choose_by_score({rule_of(1, 3, 3), score, {4, 5}}, 3),
                       doctest::Contains("pinned experts need 6"), base::Error);
}

TEST_CASE("select: over layers, the best next expert anywhere comes first") {
  const std::vector<ScoredLayer> layers{{rule_of(1), {9, 8, 7, 1}}, {rule_of(1), {5, 6, 0, 0}}};
  const auto keep = [&](int64_t total, int slack) { return kept_over_layers(layers, total, slack); };
  CHECK(keep(2, 0) == std::vector<List>{{0}, {1}});
  CHECK(keep(4, 0) == std::vector<List>{{0, 1, 2}, {1}});
  CHECK(keep(5, 0) == std::vector<List>{{0, 1, 2}, {0, 1}});
  CHECK(keep(4, 1) == std::vector<List>{{0, 1}, {0, 1}});
  CHECK(keep(100, 0) == std::vector<List>{{0, 1, 2, 3}, {0, 1, 2, 3}});
  CHECK_THROWS_WITH_AS(keep(3, 1), doctest::Contains("the layers need 4"), base::Error);
}

TEST_CASE("select: over layers with scores alone, it is the global ranking once every layer has its floor") {
  base::Rng rng(4);
  for (int round = 0; round < 20; ++round) {
    std::vector<ScoredLayer> layers;
    for (int l = 0; l < 3; ++l) {
      layers.push_back({rule_of(2), {}});
      for (int e = 0; e < 8; ++e) layers.back().score.push_back(rng.uniform());
    }
    const int total = 6 + static_cast<int>(rng.below(19));
    // Two of each layer for certain, then the best of what is left over all layers.
    std::vector<std::set<int>> expected(3);
    std::vector<std::tuple<double, int, int>> rest;
    for (int l = 0; l < 3; ++l) {
      List order(8);
      for (int e = 0; e < 8; ++e) order[static_cast<size_t>(e)] = e;
      std::ranges::sort(order, std::greater(), [&](int e) { return layers[l].score[e]; });
      for (int i = 0; i < 8; ++i)
        if (i < 2)
          expected[l].insert(order[i]);
        else
          rest.emplace_back(-layers[l].score[order[i]], l, order[i]);
    }
    std::ranges::sort(rest);
    for (int i = 0; i < total - 6; ++i) expected[std::get<1>(rest[i])].insert(std::get<2>(rest[i]));
    const auto kept = kept_over_layers(layers, total, 0);
    for (int l = 0; l < 3; ++l) CHECK(kept[l] == List(expected[l].begin(), expected[l].end()));
  }
}

TEST_CASE("select: groups gain together, and no more than fit") {
  const std::vector<ScoredLayer> layers{{rule_of(1, 2, 2), {9, 1, 2, 8}}, {rule_of(1), {3, 2.5, 2, 1}}};
  CHECK(kept_over_layers(layers, 4, 0) == std::vector<List>{{0, 3}, {0, 1}});
  CHECK(kept_over_layers(layers, 6, 0) == std::vector<List>{{0, 3}, {0, 1, 2, 3}});  // (1 + 2) / 2 > 1, but 1 is left
  CHECK(kept_over_layers(layers, 7, 0) == std::vector<List>{{0, 1, 2, 3}, {0, 1, 2}});
}

TEST_CASE("select: sampled sets obey groups and pins, and enough of them find the best there is") {
  const ObservedLayer layer({kTestRules[5].router, 12, 3, 40, 12});
  base::Threads threads(2);
  LayerRecord pinned = layer.record;
  pinned.pinned = {5};
  const SampledChoice one = choose_sampled(pinned, 8, 1, 9, threads);
  CHECK(std::ranges::binary_search(one.keep, 5));
  for (int g = 0; g < 4; ++g) CHECK(std::ranges::count_if(one.keep, [&](int e) { return e / 3 == g; }) == 2);

  Replay replay(layer.record, {}, threads);
  double least = std::numeric_limits<double>::infinity();
  List best;
  for (int code = 0; code < 81; ++code) {  // the one of each group that goes
    List set;
    for (int g = 0, c = code; g < 4; ++g, c /= 3)
      for (int i = 0; i < 3; ++i)
        if (i != c % 3) set.push_back(3 * g + i);
    replay.keep(set);
    if (replay.batched_norms() >= least) continue;
    least = replay.batched_norms();
    best = set;
  }
  const SampledChoice many = choose_sampled(layer.record, 8, 2000, 9, threads);
  CHECK(many.keep == best);
  CHECK(many.loss == least);
  CHECK(choose_sampled(layer.record, 8, 5, 9, threads).loss >= least);
  base::Threads other(1);
  CHECK(choose_sampled(layer.record, 8, 5, 9, other).keep == choose_sampled(layer.record, 8, 5, 9, threads).keep);
  CHECK_THROWS_AS(choose_sampled(layer.record, 7, 5, 9, threads), base::Error);
}

}  // namespace
}  // namespace choir::compress
