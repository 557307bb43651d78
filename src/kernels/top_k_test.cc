#include "kernels/top_k.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace choir::kernels {
namespace {

std::vector<int32_t> chosen(const std::vector<float>& scores, size_t k) {
  std::vector<int32_t> result(k);
  top_k(scores, result);
  return result;
}

std::vector<int32_t> by_sorting(const std::vector<float>& scores, size_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return std::isnan(y) ? !std::isnan(x) : x > y;
  });
  order.resize(k);
  return order;
}

TEST_CASE("top_k: the same as a stable sort, ties and NaNs included") {
  base::Rng rng(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<float> scores(1 + rng.below(60));
    for (float& s : scores) {
      const uint64_t kind = rng.below(12);
      s = kind == 0   ? std::nanf("")
          : kind == 1 ? -std::numeric_limits<float>::infinity()
          : kind < 6  ? static_cast<float>(rng.below(4))
                      : rng.normal();
    }
    for (const size_t k : {size_t{0}, size_t{1}, scores.size() / 2, scores.size()})
      CHECK(chosen(scores, k) == by_sorting(scores, k));
  }
}

TEST_CASE("top_k: more than there are is a broken promise") { CHECK_THROWS(chosen({1.0f}, 2)); }

}  // namespace
}  // namespace choir::kernels
