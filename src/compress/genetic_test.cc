#include "compress/genetic.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/test_layer.h"

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

}  // namespace
}  // namespace choir::compress
