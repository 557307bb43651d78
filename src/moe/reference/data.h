// What the tests of this room share: random numbers, the error beside a reference, and an independent check of a Plan.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "base/rng.h"
#include "moe/plan.h"
#include "tensor/view.h"

namespace choir::moe::reference {

// Rounded to float, so that the code and its reference start from the same numbers.
inline std::vector<double> random(size_t size, double scale, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<double> values(size);
  for (double& v : values) v = static_cast<double>(static_cast<float>(scale) * rng.normal());
  return values;
}

inline std::vector<float> narrow(const std::vector<double>& values) { return {values.begin(), values.end()}; }

inline tensor::Matrix<float> matrix(std::vector<float>& numbers, int cols) {
  return {numbers.data(), static_cast<int>(numbers.size()) / cols, cols};
}
inline tensor::Matrix<const float> matrix(const std::vector<float>& numbers, int cols) {
  return {numbers.data(), static_cast<int>(numbers.size()) / cols, cols};
}

// The largest difference as a share of the largest expected number; a NaN counts as infinite.
template <class Got>
double error(const std::vector<double>& expected, const Got& got) {
  if (expected.size() != std::size(got)) return HUGE_VAL;
  double largest = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(expected[i] - static_cast<double>(got[i]));
    difference = std::isnan(d) ? HUGE_VAL : std::max(difference, d);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return largest > 0 ? difference / largest : difference;
}

// k different experts for each token; each is then replaced by -1 with probability `dropped`.
inline std::vector<int32_t> random_choices(int tokens, int k, int experts, double dropped, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<int32_t> chosen;
  for (int t = 0; t < tokens; ++t) {
    std::vector<int32_t> all;
    for (int e = 0; e < experts; ++e) all.push_back(e);
    for (int s = 0; s < k; ++s) {
      std::swap(all[s], all[s + static_cast<int>(rng.below(static_cast<uint64_t>(experts - s)))]);
      chosen.push_back(rng.uniform() < dropped ? -1 : all[s]);
    }
  }
  return chosen;
}

}  // namespace choir::moe::reference
