#include "compress/substitute.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "compress/repair_case.h"

namespace choir::compress {
namespace {

constexpr const char* kTopTwo = "linear > top_k(2) > all > chosen";

// The full layer where dropped experts are the kept ones' weights in their place, w2 times the factor.
Model answered_for(const RepairCase& c, const Substitution& substitution) {
  Mixture mixture(c.model(), 0);
  for (size_t e = 0; e < substitution.to.size(); ++e) {
    const auto to = static_cast<size_t>(std::max(substitution.to[e], 0));
    const auto& full = c.model().tensors().blocks[0].moe;
    mixture.tensors.w1[e] = full.w1[to];
    mixture.tensors.w3[e] = full.w3[to];
    std::vector<float> w2 = numbers_of(full.w2[to]);
    for (float& v : w2) v *= static_cast<float>(substitution.factor[e]);
    mixture.tensors.w2[e] = mixture.renewed(full.w2[e], w2);
  }
  return mixture.in(c.model(), 0);
}

TEST_CASE("substitution: its loss is that of a layer whose dropped experts are copies of the kept ones") {
  const RepairCase c(kTopTwo, 8);
  const auto flags = flags_of({0, 3, 4, 6}, 8);
  const Substitution found = find_substitutes(pair_moments(c.record), flags);
  int64_t missed = -1;
  const double loss = substitution_loss({c.record, flags, GainPolicy::kDrop}, found, missed);
  CHECK(missed == 0);
  CHECK(loss == doctest::Approx(c.loss_of(answered_for(c, found))).epsilon(1e-6));
  CHECK(found.to[3] == 3);
  CHECK(found.factor[3] == 1);
}

TEST_CASE("substitution: a scaled copy is found and stands in exactly") {
  const RepairCase c(kTopTwo, 8, 1 << 20, [](TestModel& made) { copy_expert(made, 6, 1, 3); });
  const auto flags = flags_of({0, 2, 3, 4, 5, 6, 7}, 8);
  const Substitution found = find_substitutes(pair_moments(c.record), flags);
  CHECK(found.to[1] == 6);
  CHECK(found.factor[1] == doctest::Approx(3).epsilon(1e-5));
  int64_t missed = 0;
  const PolicyCase dropped{c.record, flags, GainPolicy::kDrop};
  CHECK(substitution_loss(dropped, found, missed) < 1e-6 * policy_loss(dropped));
}

// One expert dropped: the sum that the factors minimise is all that is lost, so that no other expert does better.
TEST_CASE("substitution: no other expert and factor does better for an expert by itself") {
  const RepairCase c(kTopTwo, 6);
  const auto flags = flags_of({0, 1, 2, 3, 5}, 6);
  const PolicyCase dropped{c.record, flags, GainPolicy::kDrop};
  const Substitution found = find_substitutes(pair_moments(c.record), flags);
  int64_t missed = 0;
  const double best = substitution_loss(dropped, found, missed);
  CHECK(best < policy_loss(dropped));
  for (const int to : {0, 1, 2, 3, 5})
    for (const double factor : {-1.0, -0.3, -0.1, 0.1, 0.3, 1.0}) {
      Substitution other = found;
      other.to[4] = to;
      other.factor[4] = factor;
      CHECK(substitution_loss(dropped, other, missed) >= best);
    }
}

TEST_CASE("substitution: tokens whose stand-in was not captured are counted, and judged without it") {
  const RepairCase c(kTopTwo, 8, 3);
  const auto flags = flags_of({0, 3, 4, 6}, 8);
  Substitution to_three{{0, 3, 3, 3, 4, 3, 6, 3}, std::vector<double>(8, 1.0)};
  int64_t missed = 0, expected = 0;
  substitution_loss({c.record, flags, GainPolicy::kDrop}, to_three, missed);
  for (int t = 0; t < RepairCase::kTokens; ++t) {
    const auto ranking = c.record.ranking(t);
    const bool there = std::ranges::count(ranking, 3) > 0;
    expected += !there && (!flags[static_cast<size_t>(ranking[0])] || !flags[static_cast<size_t>(ranking[1])]);
  }
  CHECK(missed == expected);
  CHECK(expected > 0);
}

}  // namespace
}  // namespace choir::compress
