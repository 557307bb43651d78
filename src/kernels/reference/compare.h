// What the tests of kernels share: random data, ten scales, every instruction set, and the error beside a reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "base/rng.h"
#include "kernels/isa.h"

namespace choir::kernels::reference {

inline std::vector<double> random(size_t size, double scale, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<double> values(size);
  // Rounded to float, so that kernel and reference start from the same numbers.
  for (double& v : values) v = static_cast<double>(static_cast<float>(scale * static_cast<double>(rng.normal())));
  return values;
}

inline std::vector<float> narrow(const std::vector<double>& values) { return {values.begin(), values.end()}; }

inline std::vector<double> scales(double from, double to) {
  std::vector<double> result;
  for (int i = 0; i < 10; ++i) result.push_back(from * std::pow(to / from, i / 9.0));
  return result;
}

// The largest difference as a share of the largest expected number; a NaN counts as infinite.
template <class Got>
double error(const std::vector<double>& expected, const Got& got) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(expected[i] - static_cast<double>(got[i]));
    difference = std::isnan(d) ? HUGE_VAL : std::max(difference, d);
    largest = std::max(largest, std::abs(expected[i]));
  }
  if (expected.size() != std::size(got)) return HUGE_VAL;
  return largest > 0 ? difference / largest : difference;
}

// Calls body(isa) under each instruction set that this machine has.
template <class Body>
void for_each_isa(const Body& body) {
  const Isa best = best_isa();
  for (const Isa isa : {Isa::kPlain, Isa::kAvx2, Isa::kAvx512, Isa::kVnni, Isa::kBf16}) {
    if (isa > best) continue;
    const IsaLimit limit(isa);
    body(isa);
  }
}

}  // namespace choir::kernels::reference
