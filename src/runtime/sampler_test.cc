#include "runtime/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace choir::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const std::vector<float> kLogits = {1.0f, 3.0f, -2.0f, 2.5f, 0.0f, 2.0f, -kInfinity, 0.5f, 1.5f, 2.9f};

std::vector<double> softmax(const std::vector<double>& z) {
  std::vector<double> p;
  for (const double v : z) p.push_back(std::exp(v));
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& v : p) v /= total;
  return p;
}

// The four steps one after another, each on the renormalised probabilities of the one before it.
std::vector<double> reference(const std::vector<float>& logits, const Sampling& s) {
  std::vector<double> z;
  for (const float v : logits) z.push_back(static_cast<double>(v) / static_cast<double>(s.temperature));
  std::vector<size_t> order(z.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return z[a] > z[b]; });
  const auto drop = [&](size_t rank) { z[order[rank]] = -std::numeric_limits<double>::infinity(); };
  if (s.top_k > 0)
    for (size_t r = static_cast<size_t>(s.top_k); r < z.size(); ++r) drop(r);
  std::vector<double> p = softmax(z);
  double held = 0;
  for (size_t r = 0; r < z.size(); ++r) {
    if (held >= static_cast<double>(s.top_p)) drop(r);
    held += p[order[r]];
  }
  p = softmax(z);
  for (size_t r = 0; r < z.size(); ++r)
    if (p[order[r]] < static_cast<double>(s.min_p) * p[order[0]]) drop(r);
  return softmax(z);
}

// Pearson's sum over the tokens that may come; the others must never come.
double chi_square(const std::vector<float>& logits, const Sampling& sampling, int draws) {
  const std::vector<double> expected = reference(logits, sampling);
  std::vector<int> seen(logits.size());
  Sampler sampler(sampling);
  for (int i = 0; i < draws; ++i) ++seen[static_cast<size_t>(sampler.pick(logits))];
  double sum = 0;
  for (size_t v = 0; v < logits.size(); ++v) {
    if (expected[v] == 0) CHECK(seen[v] == 0);
    if (expected[v] == 0) continue;
    const double e = expected[v] * draws;
    sum += (seen[v] - e) * (seen[v] - e) / e;
  }
  return sum;
}

base::Fault fault_of(const Sampling& sampling) {
  try {
    check_sampling(sampling);
  } catch (const base::Error& error) {
    return error.fault;
  }
  return base::Fault::kProgram;
}

TEST_CASE("greedy takes the largest logit, the lowest id among equals") {
  Sampler sampler({});
  CHECK(sampler.pick(kLogits) == 1);
  CHECK(sampler.pick(std::vector<float>{-1, 4, 2, 4, 4}) == 1);
  CHECK(sampler.pick(std::vector<float>{-kInfinity, -5}) == 1);
  CHECK(sampler.pick(std::vector<float>{0}) == 0);
}

TEST_CASE("frequencies are those of the plain reference") {
  const Sampling cases[] = {
      {.temperature = 1, .seed = 1},
      {.temperature = 0.7f, .seed = 2},
      {.temperature = 2.5f, .seed = 3},
      {.temperature = 1, .top_k = 3, .seed = 4},
      {.temperature = 1, .top_p = 0.6f, .seed = 5},
      {.temperature = 1, .min_p = 0.25f, .seed = 6},
      {.temperature = 1.5f, .top_k = 6, .top_p = 0.8f, .min_p = 0.1f, .seed = 7},
  };
  // With at most 8 degrees of freedom a sum above 26.1 comes once in a thousand; the seeds are fixed.
  for (const Sampling& sampling : cases) {
    CAPTURE(sampling.seed);
    CHECK(chi_square(kLogits, sampling, 20000) < 26.1);
  }
}

TEST_CASE("the temperature comes before the cuts") {
  // Near-equal after division by 20, so that half of the probability needs more than the one token it needs at 1.
  const std::vector<float> logits = {5, 1, 1, 1};
  Sampler hot({.temperature = 20, .top_p = 0.5f, .seed = 8}), plain({.temperature = 1, .top_p = 0.5f, .seed = 8});
  int others = 0;
  for (int i = 0; i < 200; ++i) {
    others += hot.pick(logits) != 0;
    CHECK(plain.pick(logits) == 0);
  }
  CHECK(others > 0);
}

TEST_CASE("ties at the edge of top-k go to the lower ids, and the first of top-p always stays") {
  Sampler two({.temperature = 1, .top_k = 2, .seed = 9}), least({.temperature = 1, .top_p = 1e-6f, .seed = 9});
  for (int i = 0; i < 100; ++i) {
    CHECK(two.pick(std::vector<float>(50, 1.0f)) < 2);
    CHECK(least.pick(std::vector<float>(50, 1.0f)) == 0);
  }
}

TEST_CASE("a tiny temperature is greedy, a top-k beyond the vocabulary keeps all") {
  Sampler cold({.temperature = 1e-30f, .seed = 10});
  for (int i = 0; i < 20; ++i) CHECK(cold.pick(kLogits) == 1);
  CHECK(chi_square(kLogits, {.temperature = 1, .top_k = 1000, .seed = 11}, 20000) < 26.1);
}

TEST_CASE("equal seeds draw equal tokens, others draw others") {
  const auto drawn = [](uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.pick(kLogits));
    return ids;
  };
  CHECK(drawn(12) == drawn(12));
  CHECK(drawn(12) != drawn(13));
}

TEST_CASE("unsound values and unsound logits are refused") {
  for (const Sampling& s : std::initializer_list<Sampling>{{.temperature = -1},
                                                           {.temperature = kNaN},
                                                           {.temperature = kInfinity},
                                                           {.top_k = -1},
                                                           {.top_p = 0},
                                                           {.top_p = 1.1f},
                                                           {.top_p = kNaN},
                                                           {.min_p = -0.1f},
                                                           {.min_p = 1.1f},
                                                           {.min_p = kNaN}})
    CHECK(fault_of(s) == base::Fault::kUsage);
  CHECK_THROWS_AS(Sampler({.top_k = -1}), base::Error);
  for (const float temperature : {0.0f, 1.0f})
    for (const auto& logits : std::initializer_list<std::vector<float>>{
             {}, {kNaN, 1}, {1, kNaN}, {1, kInfinity}, {kNaN, kNaN}, {-kInfinity, -kInfinity}})
      CHECK_THROWS_AS(Sampler({.temperature = temperature}).pick(logits), base::Error);
}

}  // namespace
}  // namespace choir::runtime
