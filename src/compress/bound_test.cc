#include "compress/bound.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "compress/enumerate.h"
#include "compress/search.h"
#include "compress/test_layer.h"

namespace choir::compress {
namespace {

int keep_of(const TestRule& rule) { return std::max(rule.least, rule.experts / 2); }

// Decides some experts so that a set of `keep` can still agree.
std::vector<Fate> some_fate(const TestLayer& c, int keep, base::Rng& rng) {
  std::vector<Fate> fate(static_cast<size_t>(c.rule.experts), Fate::kDropped);
  for (const int e : c.some_experts(rng, keep)) fate[static_cast<size_t>(e)] = Fate::kKept;
  const uint64_t open = 1 + rng.below(4);  // every second, ..., every fifth stays decided
  for (Fate& f : fate)
    if (rng.below(open + 1) != 0) f = Fate::kOpen;
  return fate;
}

TEST_CASE("bound: never above the loss of a set that agrees with what is decided") {
  double tightest = 0;
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    base::Rng rng(3);
    std::vector<double> weight;
    for (int t = 0; t < TestLayer::kTokens; ++t) weight.push_back(0.5 + t % 3);
    const LossBound bound(c.record, weight, threads);
    const SetLoss loss(c.record, weight, threads);
    const int keep = keep_of(rule);
    const auto sets = combinations(rule.experts, keep);
    const std::vector<double> losses = loss.losses(sets);
    for (int round = 0; round < 40; ++round) {
      const std::vector<Fate> fate = some_fate(c, keep, rng);
      double least = INFINITY;
      for (size_t i = 0; i < sets.size(); ++i) {
        bool agrees = true;
        for (int e = 0; e < rule.experts; ++e)
          agrees &= fate[e] == Fate::kOpen || (fate[e] == Fate::kKept) == std::ranges::binary_search(sets[i], e);
        if (agrees) least = std::min(least, losses[i]);
      }
      const double found = bound.of(fate, keep);
      CHECK(found >= 0);
      CHECK(found <= least * (1 + 1e-9));
      tightest = std::max(tightest, found / least);
    }
  }
  CHECK(tightest > 0.9);
}

TEST_CASE("bound: where all is decided it is the loss itself") {
  for (const TestRule& rule : kTestRules) {
    const TestLayer c(rule);
    if (c.record.rule.groups > 1) continue;
    CAPTURE(rule.router);
    base::Threads threads(2);
    base::Rng rng(3);
    const int keep = keep_of(rule);
    const std::vector<int> kept = c.some_experts(rng, keep);
    std::vector<Fate> fate(static_cast<size_t>(rule.experts), Fate::kDropped);
    for (const int e : kept) fate[static_cast<size_t>(e)] = Fate::kKept;
    CHECK(LossBound(c.record, {}, threads).of(fate, keep) ==
          doctest::Approx(SetLoss(c.record, {}, threads).loss(kept)).epsilon(1e-9));
  }
}

// More answers than channels depend on one another; so do equal ones.
TEST_CASE("bound: holds where the answers of experts are equal") {
  TestLayer c(kTestRules[1]);
  std::ranges::fill(c.record.gram, 1.0f);
  base::Threads threads(1);
  std::vector<Fate> fate(16, Fate::kOpen);
  for (int e = 0; e < 5; ++e) fate[static_cast<size_t>(e)] = Fate::kDropped;
  const std::vector<int> kept{5, 6, 7, 8, 9, 10, 11, 12};
  CHECK(LossBound(c.record, {}, threads).of(fate, 8) <= SetLoss(c.record, {}, threads).loss(kept) + 1e-9);
}

TEST_CASE("proof: ends with the least of all sets, from a bad start too") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    const int keep = rule.experts == 16 && c.record.rule.groups == 1 ? 13 : keep_of(rule);
    Replay replay(c.record, {}, threads);
    const LossBound bound(c.record, {}, threads);
    const double least = enumerate(c.record, {}, keep, 1, threads)[0].loss;
    base::Rng rng(7);
    for (const std::vector<int>& start : {eliminate(replay, keep).kept(keep), c.some_experts(rng, keep)}) {
      const Proof proof = prove(replay, bound, start, 1 << 20);
      CHECK(proof.proved);
      CHECK(proof.best.loss == doctest::Approx(least).epsilon(1e-9));
      CHECK(proof.bound == proof.best.loss);
      CHECK(proof.gap() == 0);
      CHECK(static_cast<int>(proof.best.kept.size()) == keep);
    }
  }
}

TEST_CASE("proof: out of nodes, the bound and the gap are still true") {
  const TestLayer c(kTestRules[1]);
  base::Threads threads(2);
  Replay replay(c.record, {}, threads);
  const LossBound bound(c.record, {}, threads);
  const double least = enumerate(c.record, {}, 8, 1, threads)[0].loss;
  const std::vector<int> start = search(replay, eliminate(replay, 8), 8, {})[0].kept;
  double before = 0;
  for (const int64_t nodes : {1, 20, 200}) {
    const Proof proof = prove(replay, bound, start, nodes);
    CHECK(!proof.proved);
    CHECK(proof.nodes <= nodes + 1);
    CHECK(proof.bound >= before);
    CHECK(proof.bound <= least * (1 + 1e-9));
    CHECK(proof.best.loss >= least * (1 - 1e-9));
    CHECK(proof.gap() == doctest::Approx(1 - proof.bound / proof.best.loss));
    before = proof.bound;
  }
  CHECK(before > 0);
}

TEST_CASE("proof: nothing to decide is proved at once; threads change no bit") {
  const TestLayer c(kTestRules[4]);
  base::Threads one(1), three(3);
  Replay replay(c.record, {}, one);
  const LossBound a(c.record, {}, one), b(c.record, {}, three);
  std::vector<int> all;
  for (int e = 0; e < 12; ++e) all.push_back(e);
  const Proof proof = prove(replay, a, all, 1);
  CHECK(proof.proved);
  CHECK(proof.nodes == 0);
  std::vector<Fate> fate(12, Fate::kOpen);
  fate[2] = fate[5] = Fate::kDropped;
  CHECK(a.of(fate, 6) == b.of(fate, 6));
  CHECK_THROWS_AS(prove(replay, a, {1, 2}, 10), base::Error);
}

}  // namespace
}  // namespace choir::compress
