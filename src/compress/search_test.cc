#include "compress/search.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

int keep_of(const TestRule& rule) { return std::max(rule.least, rule.experts / 2); }

// The dropped sets in the order of combinations(), each measured from the start; the first least one.
ScoredSet tried_one_by_one(const TestLayer& c, int keep, std::span<const double> weight) {
  base::Threads threads(1);
  Replay replay(c.record, weight, threads);
  ScoredSet best;
  for (const std::vector<int>& dropped : combinations(c.rule.experts, c.rule.experts - keep)) {
    const std::vector<int> kept = others(dropped, c.rule.experts);
    std::vector<int> of_group(static_cast<size_t>(c.record.rule.groups), 0);
    for (const int e : kept) ++of_group[e / (c.rule.experts / c.record.rule.groups)];
    if (std::ranges::count(of_group, keep / c.record.rule.groups) != c.record.rule.groups) continue;
    replay.keep(kept);
    if (best.kept.empty() || replay.loss() < best.loss) best = {kept, replay.loss()};
  }
  return best;
}

void check_groups(const LayerRecord& record, const std::vector<int>& kept, int count) {
  CHECK(static_cast<int>(kept.size()) == count);
  CHECK(std::ranges::is_sorted(kept));
  for (int g = 0; g < record.rule.groups; ++g)
    CHECK(std::ranges::count(kept, g, [&](int e) { return e / (record.experts / record.rule.groups); }) ==
          count / record.rule.groups);
}

TEST_CASE("enumeration: the first least of all sets, each measured from the start, by every rule") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    std::vector<double> weight;
    for (int t = 0; t < TestLayer::kTokens; ++t) weight.push_back(0.5 + t % 3);
    const int keep = rule.experts == 16 && c.record.rule.groups == 1 ? 13 : keep_of(rule);
    const ScoredSet expected = tried_one_by_one(c, keep, weight);
    const auto found = enumerate(c.record, weight, keep, 3, threads);
    REQUIRE(found.size() == 3);
    CHECK(found[0].kept == expected.kept);
    CHECK(found[0].loss == doctest::Approx(expected.loss).epsilon(1e-9));
    CHECK(found[0].loss <= found[1].loss);
    CHECK(found[1].loss <= found[2].loss);
    CHECK(found[1].kept != found[2].kept);
  }
}

TEST_CASE("enumeration: of equal sets the one whose dropped experts come first") {
  TestLayer c(kTestRules[0]);
  std::ranges::fill(c.record.gram, 0.0f);  // every set loses nothing
  base::Threads threads(1);
  CHECK(enumerate(c.record, {}, 5, 1, threads)[0].kept == std::vector<int>{3, 4, 5, 6, 7});
}

TEST_CASE("enumeration: few captured ranks are what the record tells") {
  const TestLayer c(kTestRules[1], 6);
  base::Threads threads(1);
  const ScoredSet expected = tried_one_by_one(c, 13, {});
  CHECK(enumerate(c.record, {}, 13, 1, threads)[0].kept == expected.kept);
}

TEST_CASE("elimination: each step takes out whoever is missed least; the curve is that of the nested sets") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    Replay replay(c.record, {}, threads), fresh(c.record, {}, threads);
    const Elimination elimination = eliminate(replay, rule.least);
    CHECK(members(replay.kept()) == elimination.kept(rule.least));
    const int groups = c.record.rule.groups;
    for (int count = 0; count <= rule.experts; ++count) {
      const double loss = elimination.loss[static_cast<size_t>(count)];
      CHECK(std::isnan(loss) == (count < rule.least || count % groups != 0));
      if (std::isnan(loss)) continue;
      const std::vector<int> kept = elimination.kept(count);
      check_groups(c.record, kept, count);
      fresh.keep(kept);
      CHECK(loss == fresh.loss());
      if (groups > 1 || count == rule.least) continue;
      double least = INFINITY;
      for (const int e : kept) {
        std::vector<int> fewer = kept;
        std::erase(fewer, e);
        fresh.keep(fewer);
        least = std::min(least, fresh.loss());
      }
      CHECK(elimination.loss[static_cast<size_t>(count) - 1] == doctest::Approx(least).epsilon(1e-9));
    }
  }
}

TEST_CASE("search: elimination, swaps and restarts reach the least of all sets in at least 95 % of layers") {
  int cells = 0, reached = 0;
  for (const TestRule& rule : kTestRules)
    for (uint64_t seed = 5; seed < 17; ++seed) {
      const TestLayer c(rule, 1 << 20, seed);
      base::Threads threads(2);
      const int keep = keep_of(rule);
      Replay replay(c.record, {}, threads);
      const auto found = search(replay, eliminate(replay, keep), keep, {});
      const double least = enumerate(c.record, {}, keep, 1, threads)[0].loss;
      ++cells;
      reached += found[0].loss <= least * (1 + 1e-9);
      CHECK(found[0].loss >= least * (1 - 1e-9));
    }
  CAPTURE(reached);
  CHECK(reached >= 0.95 * cells);
}

TEST_CASE("search: no swap is left, and nothing that it started from is better") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule, 1 << 20, 9);
    base::Threads threads(2);
    const std::vector<double> weight = objective_weights(c.record, Objective::kOutput, threads);
    Replay replay(c.record, weight, threads);
    const int keep = keep_of(rule);
    const Elimination elimination = eliminate(replay, keep);
    const auto found = search(replay, elimination, keep, {.restarts = 3, .seed = 4, .sets = 5});
    REQUIRE(found.size() == 5);
    CHECK(found[0].loss <= elimination.loss[static_cast<size_t>(keep)]);
    for (size_t i = 0; i < found.size(); ++i) {
      check_groups(c.record, found[i].kept, keep);
      for (size_t j = 0; j < i; ++j) CHECK(found[i].kept != found[j].kept);
      if (i > 0) CHECK(found[i].loss >= found[i - 1].loss);
      replay.keep(found[i].kept);
      CHECK(replay.loss() == found[i].loss);
    }
    const auto best = [&](const std::vector<int>& set) {
      replay.keep(set);
      return found[0].loss <= replay.loss();
    };
    CHECK(best(frequent_set(c.record, keep)));
    base::Rng rng(4);  // that of the restarts
    for (int i = 0; i < 3; ++i) CHECK(best(random_set(c.record, keep, rng)));
    const int size = rule.experts / c.record.rule.groups;
    for (const int out : found[0].kept)
      for (const int in : others(found[0].kept, rule.experts)) {
        std::vector<int> set = found[0].kept;
        std::ranges::replace(set, out, in);
        std::ranges::sort(set);
        if (out / size == in / size) CHECK(best(set));
      }
  }
}

TEST_CASE("search: threads change no bit") {
  const TestLayer c(kTestRules[4]);
  base::Threads one(1), three(3);
  Replay a(c.record, {}, one), b(c.record, {}, three);
  const auto first = search(a, eliminate(a, 5), 5, {.restarts = 2, .sets = 4});
  const auto second = search(b, eliminate(b, 5), 5, {.restarts = 2, .sets = 4});
  REQUIRE(first.size() == second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    CHECK(first[i].kept == second[i].kept);
    CHECK(first[i].loss == second[i].loss);
  }
  CHECK(enumerate(c.record, {}, 5, 1, one)[0].loss == enumerate(c.record, {}, 5, 1, three)[0].loss);
}

TEST_CASE("search: counts that a rule cannot live with, and answers that are not finite, are refused") {
  const TestLayer plain(kTestRules[1]), grouped(kTestRules[5]);
  base::Threads threads(1);
  Replay few(plain.record, {}, threads), uneven(grouped.record, {}, threads);
  CHECK_THROWS_AS(eliminate(few, 3), base::Error);
  CHECK_THROWS_AS(eliminate(few, 17), base::Error);
  CHECK_THROWS_AS(eliminate(uneven, 10), base::Error);
  CHECK_THROWS_AS(eliminate(uneven, 4), base::Error);
  CHECK_THROWS_AS(enumerate(plain.record, {}, 3, 1, threads), base::Error);
  TestLayer broken(kTestRules[1]);
  broken.record.gram[0] = NAN;
  Replay replay(broken.record, {}, threads);
  CHECK_THROWS_AS(eliminate(replay, 8), base::Error);
}

}  // namespace
}  // namespace choir::compress
