#include "compress/genetic.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/test_record.h"

namespace choir::compress {
namespace {

TEST_CASE("genetic search: the least of all sets in at least 95 % of layers") {
  int cells = 0, reached = 0;
  for (const TestRule& rule : kTestRules)
    for (uint64_t seed = 5; seed < 11; ++seed) {
      const TestLayer c(rule, 1 << 20, seed);
      base::Threads threads(2);
      const int keep = std::max(rule.least, rule.experts / 2);
      const SetLoss loss(c.record, {}, threads);
      const auto found = breed(loss, keep, {.seed = seed});
      const double least = enumerate(c.record, {}, keep, 1, threads)[0].loss;
      ++cells;
      reached += found[0].loss <= least * (1 + 1e-9);
    }
  CAPTURE(reached);
  CHECK(reached >= 0.95 * cells);
}

TEST_CASE("genetic search: the best few distinct sets; groups stay equal; the same for any number of threads") {
  for (const TestRule& rule : {kTestRules[1], kTestRules[5]}) {
    const TestLayer c(rule);
    base::Threads one(1), three(3);
    const SetLoss loss(c.record, {}, one), other(c.record, {}, three);
    const GeneticOptions options{.population = 20, .generations = 8, .seed = 2, .sets = 4};
    const auto found = breed(loss, 8, options), again = breed(other, 8, options);
    REQUIRE(found.size() == 4);
    const int groups = c.record.rule.groups;
    for (size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].kept == again[i].kept);
      CHECK(found[i].loss == again[i].loss);
      CHECK(found[i].loss == loss.loss(found[i].kept));
      if (i > 0) CHECK(found[i - 1].loss <= found[i].loss);
      for (int g = 0; g < groups; ++g)
        CHECK(std::ranges::count(found[i].kept, g, [&](int e) { return e / (16 / groups); }) == 8 / groups);
    }
  }
}

TEST_CASE("genetic search: all experts and the least count have answers; bad options are refused") {
  const TestLayer c(kTestRules[0]);
  base::Threads threads(1);
  const SetLoss loss(c.record, {}, threads);
  CHECK(breed(loss, 8, {.generations = 2})[0].kept.size() == 8);
  CHECK(breed(loss, 2, {.generations = 2})[0].kept.size() == 2);
  CHECK_THROWS_AS(breed(loss, 1, {}), base::Error);
  CHECK_THROWS_AS(breed(loss, 4, {.population = 1}), base::Error);
}

std::vector<std::vector<ScoredSet>> three_layers() {
  return {
      {{{0, 1}, 1.0}, {{0, 2}, 1.5}}, {{{1, 2}, 2.0}, {{1, 3}, 2.5}, {{2, 3}, 3.0}}, {{{0, 3}, 1.0}, {{2, 3}, 4.0}}};
}

TEST_CASE("block: every combination once, the last layer fastest, the least wins") {
  std::vector<std::vector<std::vector<int>>> asked;
  const auto candidates = three_layers();
  const auto loss = [&](std::span<const std::vector<int>> kept) {
    asked.emplace_back(kept.begin(), kept.end());
    return kept[0] == std::vector<int>{0, 2} && kept[1] == std::vector<int>{2, 3} && kept[2][0] == 0 ? 0.25 : 1.0;
  };
  const BlockChoice choice = choose_in_block(candidates, loss);
  CHECK(choice.chosen == std::vector<size_t>{1, 2, 0});
  CHECK(choice.loss == 0.25);
  CHECK(choice.greedy == 1.0);
  CHECK(choice.tried == 12);
  CHECK(asked.size() == 12);
  CHECK(std::set(asked.begin(), asked.end()).size() == 12);
  CHECK(asked[0] == std::vector<std::vector<int>>{{0, 1}, {1, 2}, {0, 3}});
  CHECK(asked[1] == std::vector<std::vector<int>>{{0, 1}, {1, 2}, {2, 3}});
  CHECK(asked[2] == std::vector<std::vector<int>>{{0, 1}, {1, 3}, {0, 3}});
}

TEST_CASE("block: never worse than the first candidates, whatever the loss") {
  base::Rng rng(6);
  const auto candidates = three_layers();
  for (int round = 0; round < 50; ++round) {
    double greedy = 0;
    int calls = 0;
    const BlockChoice choice = choose_in_block(candidates, [&](std::span<const std::vector<int>>) {
      const double loss = calls > 0 && rng.below(4) == 0 ? NAN : rng.uniform();
      if (calls++ == 0) greedy = loss;
      return loss;
    });
    CHECK(choice.greedy == greedy);
    CHECK(choice.loss <= greedy);
  }
  const auto equal = choose_in_block(candidates, [](std::span<const std::vector<int>>) { return 3.0; });
  CHECK(equal.chosen == std::vector<size_t>{0, 0, 0});
  CHECK_THROWS_AS(choose_in_block(candidates, [](std::span<const std::vector<int>>) { return NAN; }), base::Error);
}

}  // namespace
}  // namespace choir::compress
