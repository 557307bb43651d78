// How many tokens an expert may take, from the formulas. Factors are whole numbers of thousandths: 1.1 * 50 is 55
// there, and 55.000000000000007 in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "moe/reference/selection.h"

namespace choir::moe::reference {

// One routing step: N tokens, E experts, K proposals a token.
struct Sizes {
  int64_t tokens = 0, experts = 0, k = 1;
};

// ceil(factor K N / E)
inline int64_t factor_capacity(int64_t per_mille, const Sizes& s) {
  const int64_t above = per_mille * s.k * s.tokens, below = 1000 * s.experts;
  return above / below + (above % below != 0);
}

// C E / (K N)
inline double effective_factor(int64_t capacity, const Sizes& s) {
  return double(capacity * s.experts) / double(s.k * s.tokens);
}

// C_e = the fewest of expert e's candidates, best first, whose a = max(delta, 0) sums to tau of all of theirs. 0
// without positive candidates.
inline std::vector<int64_t> etr_sum(const Lists& proposed, const std::vector<double>& delta, size_t k, size_t experts,
                                    double tau) {
  std::vector<int64_t> capacity;
  for (size_t e = 0; e < experts; ++e) {
    std::vector<double> a;
    for (size_t i = 0; i < proposed.size(); ++i)
      if (proposed[i] == int32_t(e)) a.push_back(std::max(delta[i / k * experts + e], 0.0));
    std::sort(a.begin(), a.end(), std::greater<>());
    double all = 0, sum = 0;
    for (const double v : a) all += v;
    size_t c = 0;
    while (c < a.size() && sum < tau * all) sum += a[c++];
    capacity.push_back(int64_t(c));
  }
  return capacity;
}

// The mean over steps moves by (1 - decay) of the difference, so that an unchanged C stays exactly.
inline double capacity_mean(double before, double now, double decay) { return before + (1 - decay) * (now - before); }

struct Limits {
  int64_t low = 0, high = 1100;  // thousandths of K N / E
  int64_t tile = 1;
};

// Clamped to [low, high] K N / E, then up to a whole number, then up to a multiple of the tile.
inline int64_t clamp_and_tile(double capacity, const Limits& l, const Sizes& s) {
  const int64_t low = factor_capacity(l.low, s), high = factor_capacity(l.high, s);
  const int64_t c = capacity >= double(high) ? high : std::max(low, int64_t(std::ceil(capacity)));
  return (c + l.tile - 1) / l.tile * l.tile;
}

// z = D delta^2 / (2 - delta^2) (arXiv 2401.13920, theorem 1)
inline double angle_exponent(double delta, double width) { return width * delta * delta / (2 - delta * delta); }

// ln C = z - ln E: the log of C_min = e^z / E (arXiv 2406.00023, remark 7).
inline double log_bound(double delta, double width, double experts) {
  return angle_exponent(delta, width) - std::log(experts);
}

// The delta with C_min = c: sqrt(2 z / (D + z)), z = ln(E c).
inline double delta_of_bound(double c, double width, double experts) {
  const double z = std::log(experts * c);
  return std::sqrt(2 * z / (width + z));
}

// The largest delta of each expert over all tokens, or the q-quantile: the smallest value with a share q at or below
// it.
inline std::vector<double> delta_statistic(const std::vector<double>& delta, size_t experts, double q = 1) {
  std::vector<double> out;
  const size_t n = delta.size() / experts;
  for (size_t e = 0; e < experts; ++e) {
    std::vector<double> column;
    for (size_t t = 0; t < n; ++t) column.push_back(delta[t * experts + e]);
    std::sort(column.begin(), column.end());
    const double rank = std::ceil(q * double(n) - 1e-9);  // q N is whole in the formulas, not always in double
    out.push_back(column[size_t(std::clamp(rank, 1.0, double(n))) - 1]);
  }
  return out;
}

// The largest over experts of e^(log bound), clamped and tiled; the clamp is taken before the exponential overflows.
inline int64_t bound_capacity(const std::vector<double>& statistic, double width, const Limits& l, const Sizes& s) {
  double most = -HUGE_VAL;
  for (const double d : statistic) most = std::max(most, log_bound(d, width, double(s.experts)));
  const double high = double(factor_capacity(l.high, s));
  return clamp_and_tile(most >= std::log(high) ? high : std::exp(most), l, s);
}

// ceil(2 N max_e r_e), r_e the share of tokens that go to e and outscore the reference token (arXiv 2406.00023,
// corollary 6).
inline int64_t theory_capacity(const std::vector<double>& r, const Sizes& s) {
  return int64_t(std::ceil(2 * double(s.tokens) * *std::max_element(r.begin(), r.end())));
}

}  // namespace choir::moe::reference
