#include "moe/propose/assignment.h"

#include <numeric>

#include "moe/propose/transport.h"
#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

double sum_of(const std::vector<double>& z, int experts, const std::vector<int32_t>& choice) {
  double sum = 0;
  for (size_t t = 0; t < choice.size(); ++t) sum += z[t * experts + static_cast<size_t>(choice[t])];
  return sum;
}

std::vector<int> loads_of(const std::vector<int32_t>& choice, int experts) {
  std::vector<int> loads(static_cast<size_t>(experts));
  for (const int32_t e : choice) ++loads[static_cast<size_t>(e)];
  return loads;
}

// By trying all choices whose loads differ by one at most.
double best_sum(const std::vector<double>& z, int experts, std::vector<int32_t>& choice) {
  const size_t tokens = z.size() / experts;
  if (choice.size() == tokens) {
    const auto loads = loads_of(choice, experts);
    return std::ranges::max(loads) - std::ranges::min(loads) > 1 ? -HUGE_VAL : sum_of(z, experts, choice);
  }
  double best = -HUGE_VAL;
  for (int32_t e = 0; e < experts; ++e) {
    choice.push_back(e);
    best = std::max(best, best_sum(z, experts, choice));
    choice.pop_back();
  }
  return best;
}

TEST_CASE("assignment: text") { reference::check_text<Assignment>({"assignment"}, {"assignment(1)"}); }

TEST_CASE("assignment: the largest sum that equal loads allow, by trying all") {
  for (uint64_t seed = 1; seed <= 40; ++seed)
    for (const auto& [tokens, experts] : {std::pair{6, 3}, {7, 3}, {4, 4}, {5, 4}, {8, 2}, {2, 4}}) {
      CAPTURE(seed);
      CAPTURE(tokens);
      CAPTURE(experts);
      reference::Case c(tokens, 1, experts);
      auto z = reference::random(static_cast<size_t>(tokens * experts), 1, seed);
      if (seed % 2) z = reference::with_ties(z);
      const auto got = reference::proposals(Assignment{}, c, reference::narrow(z));
      std::vector<int32_t> empty;
      CHECK(sum_of(z, experts, got) == doctest::Approx(best_sum(z, experts, empty)).epsilon(1e-9));
      const auto loads = loads_of(got, experts);
      CHECK(std::ranges::max(loads) - std::ranges::min(loads) <= 1);
      if (tokens % experts == 0)
        CHECK(sum_of(z, experts, got) ==
              doctest::Approx(reference::exact_assignment(z, static_cast<size_t>(experts)).sum).epsilon(1e-9));
    }
}

// Optimal iff no chain of moves wins: no negative cycle among the sinks, where a unit of load may also pass from a sink
// with the larger load to one with the smaller.
bool optimal(const std::vector<int64_t>& gain, int sinks, const std::vector<int32_t>& choice) {
  const auto n = static_cast<size_t>(sinks);
  constexpr int64_t kFar = int64_t{1} << 60;
  std::vector<int64_t> d(n * n, kFar);
  for (size_t s = 0; s < choice.size(); ++s)
    for (size_t b = 0; b < n; ++b) {
      const auto a = static_cast<size_t>(choice[s]);
      d[a * n + b] = std::min(d[a * n + b], gain[s * n + a] - gain[s * n + b]);
    }
  const auto loads = loads_of(choice, sinks);
  const int least = std::ranges::min(loads);
  for (size_t a = 0; a < n; ++a)
    for (size_t b = 0; b < n; ++b)  // a path that ends at b, which has room, and goes on from a, which gives it up
      if (loads[b] == least && loads[a] == least + 1) d[b * n + a] = std::min(d[b * n + a], int64_t{0});
  for (size_t k = 0; k < n; ++k)
    for (size_t a = 0; a < n; ++a)
      for (size_t b = 0; b < n; ++b) d[a * n + b] = std::min(d[a * n + b], d[a * n + k] + d[k * n + b]);
  for (size_t a = 0; a < n; ++a)
    if (d[a * n + a] < 0) return false;
  return true;
}

TEST_CASE("assign_evenly: no chain of moves improves large problems") {
  for (const auto& [tokens, sinks, skew] :
       {std::tuple{4096, 64, 0.0}, {1000, 7, 3.0}, {333, 32, 1.0}, {64, 64, 0.0}, {10, 16, 1.0}, {500, 1, 0.0}}) {
    CAPTURE(tokens);
    CAPTURE(sinks);
    base::Rng rng(9);
    std::vector<int64_t> gain;
    for (int i = 0; i < tokens * sinks; ++i)  // with skew all prefer the low sinks
      gain.push_back(static_cast<int64_t>(1e6 * (static_cast<double>(rng.normal()) - skew * (i % sinks))));
    const auto choice = assign_evenly(gain, sinks);
    const auto loads = loads_of(choice, sinks);
    CHECK(std::ranges::max(loads) - std::ranges::min(loads) <= (tokens % sinks ? 1 : 0));
    CHECK(optimal(gain, sinks, choice));
    CHECK(assign_evenly(gain, sinks) == choice);
  }
}

TEST_CASE("assignment: padding takes no part, masked experts get nothing") {
  constexpr int kExperts = 3;
  reference::Case plain(6, 1, kExperts), padded(9, 1, kExperts);
  const auto z = reference::narrow(reference::random(6 * kExperts, 1, 4));
  padded.padding = {1, 0, 0, 1, 0, 0, 0, 1, 0};
  std::vector<float> wide(9 * kExperts, 50.0f);
  const std::vector<int> where{1, 2, 4, 5, 6, 8};
  for (size_t t = 0; t < where.size(); ++t)
    std::copy_n(z.begin() + static_cast<std::ptrdiff_t>(t * kExperts), kExperts, wide.begin() + where[t] * kExperts);
  const auto want = reference::proposals(Assignment{}, plain, z);
  const auto got = reference::proposals(Assignment{}, padded, wide);
  CHECK(reference::rows_of(got, 1, where) == want);
  CHECK(got[0] == -1);

  std::vector<float> masked = z;
  for (size_t t = 0; t < 6; ++t) masked[t * kExperts + 1] = -HUGE_VALF;
  CHECK(loads_of(reference::proposals(Assignment{}, plain, masked), kExperts) == std::vector<int>{3, 0, 3});
}

TEST_CASE("assignment: evaluation takes the best, and odd numbers still give a choice") {
  constexpr int kExperts = 5;
  reference::Case c(40, 1, kExperts);
  const auto z = reference::random(40 * kExperts, 1, 6);
  c.rule = Rule::kDecode;
  CHECK(reference::proposals(Assignment{}, c, reference::narrow(z)) == reference::top_k(z, kExperts, 1));
  c.rule = Rule::kTraining;
  std::vector<float> odd = reference::narrow(z);
  for (size_t i = 0; i < odd.size(); i += 3) odd[i] = NAN;
  odd[1] = HUGE_VALF;
  const auto loads = loads_of(reference::proposals(Assignment{}, c, odd), kExperts);
  CHECK(loads == std::vector<int>(kExperts, 8));
  CHECK(loads_of(reference::proposals(Assignment{}, c, std::vector<float>(40 * kExperts)), kExperts) ==
        std::vector<int>(kExperts, 8));
}

TEST_CASE("assignment: gains beyond what paths can add up are a broken promise") {
  const int64_t most = (int64_t{1} << 50) / 2;
  CHECK_NOTHROW(assign_evenly(std::vector<int64_t>{most, -most, 0, 0}, 2));
  CHECK_THROWS_AS(assign_evenly(std::vector<int64_t>{most + 1, 0, 0, 0}, 2), base::Error);
}

}  // namespace
}  // namespace choir::moe
