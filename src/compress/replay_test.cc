#include "compress/replay.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "compress/test_layer.h"

namespace choir::compress {
namespace {

std::vector<int> without(std::vector<int> set, int e) {
  std::erase(set, e);
  return set;
}

std::vector<int> with(std::vector<int> set, int e) {
  set.push_back(e);
  std::ranges::sort(set);
  return set;
}

TEST_CASE("replay: the loss of a kept set is that of the layer run again, by every rule") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    base::Rng rng(11);
    std::vector<double> weight;
    for (int t = 0; t < TestLayer::kTokens; ++t) weight.push_back(0.5 + t % 3);
    Replay replay(c.record, weight, threads);
    CHECK(replay.loss() < 1e-9);
    for (int round = 0; round < 6; ++round) {
      const int count = rule.least + round % 2 * c.record.rule.groups;
      const std::vector<int> kept = c.some_experts(rng, count);
      replay.keep(kept);
      CHECK(replay.loss() == doctest::Approx(c.run_again(kept, weight)).epsilon(1e-6));
      CHECK(replay.short_of() == 0);
    }
  }
}

TEST_CASE("replay: what a removal, an addition and a swap would change is what they do change") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    base::Rng rng(5);
    Replay replay(c.record, {}, threads), fresh(c.record, {}, threads);
    std::vector<int> kept = c.some_experts(rng, rule.least + c.record.rule.groups);
    replay.keep(kept);
    const double loss = replay.loss();
    const auto removed = replay.removals(), added = replay.additions(), swapped = replay.swaps();
    const auto n = static_cast<size_t>(rule.experts), size = n / static_cast<size_t>(c.record.rule.groups);
    const auto within = replay.swaps(true);
    for (size_t pair = 0; pair < within.size(); ++pair)
      CHECK(within[pair] == (pair / n / size == pair % n / size ? swapped[pair] : 0));
    const auto expect = [&](double change, const std::vector<int>& set) {
      fresh.keep(set);
      CHECK(loss + change == doctest::Approx(fresh.loss()).epsilon(1e-9));
    };
    for (int e = 0; e < rule.experts; ++e) {
      const bool there = std::ranges::binary_search(kept, e);
      CHECK((there ? added : removed)[static_cast<size_t>(e)] == 0);
      if (there)
        expect(removed[static_cast<size_t>(e)], without(kept, e));
      else
        expect(added[static_cast<size_t>(e)], with(kept, e));
      for (int i = 0; there && i < rule.experts; ++i)
        if (!std::ranges::binary_search(kept, i))
          expect(swapped[static_cast<size_t>(e) * n + static_cast<size_t>(i)], with(without(kept, e), i));
    }
  }
}

TEST_CASE("replay: after a thousand moves the state is that of a fresh start") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(1);
    base::Rng rng(8);
    Replay replay(c.record, {}, threads), fresh(c.record, {}, threads);
    for (int move = 0; move < 1000; ++move) {
      const int e = static_cast<int>(rng.below(static_cast<uint64_t>(rule.experts)));
      const auto there = std::ranges::count(replay.kept(), 1);
      if (!replay.kept()[static_cast<size_t>(e)])
        replay.add(e);
      else if (const int other = static_cast<int>(rng.below(static_cast<uint64_t>(rule.experts)));
               !replay.kept()[static_cast<size_t>(other)])
        replay.swap(e, other);
      else if (there > rule.least)
        replay.remove(e);
    }
    std::vector<int> kept;
    for (int e = 0; e < rule.experts; ++e)
      if (replay.kept()[static_cast<size_t>(e)]) kept.push_back(e);
    fresh.keep(kept);
    CHECK(replay.loss() == fresh.loss());
    CHECK(replay.removals() == fresh.removals());
  }
}

TEST_CASE("replay: with too few ranks the tokens that go short are counted, and the rest is exact") {
  const TestRule rule = kTestRules[1];
  const TestLayer whole(rule), cut(rule, 6);
  base::Threads threads(1);
  Replay all(whole.record, {}, threads), few(cut.record, {}, threads);
  std::vector<int> kept;
  for (int e = 0; e < 8; ++e) kept.push_back(2 * e);
  all.keep(kept);
  few.keep(kept);
  int64_t expected = 0;
  for (int t = 0; t < TestLayer::kTokens; ++t) {
    int survivors = 0;
    for (const int e : cut.record.ranking(t)) survivors += e % 2 == 0;
    expected += survivors < rule.top_k;
  }
  CHECK(all.short_of() == 0);
  CHECK(few.short_of() == expected);
  CHECK(expected > 0);
  CHECK(expected < TestLayer::kTokens);
}

TEST_CASE("replay: threads change no bit") {
  const TestLayer c(kTestRules[1]);
  base::Threads one(1), three(3);
  Replay a(c.record, {}, one), b(c.record, {}, three);
  for (const int e : {3, 9, 11}) {
    a.remove(e);
    b.remove(e);
  }
  CHECK(a.loss() == b.loss());
  CHECK(a.swaps() == b.swaps());
  CHECK(a.batched_norms() == b.batched_norms());
}

}  // namespace
}  // namespace choir::compress
