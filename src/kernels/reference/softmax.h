// Softmax of one row; S is double or std::complex<double>.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace choir::kernels::reference {

template <class S>
struct SoftmaxRow {
  std::vector<S> p;
  S log_sum;
};

// The largest real part is a constant that the quotients do not depend on.
template <class S>
SoftmaxRow<S> softmax(const std::vector<S>& z) {
  double most = -HUGE_VAL;
  for (const S& v : z) most = std::max(most, std::real(v));
  S sum = 0;
  SoftmaxRow<S> row;
  for (const S& v : z) sum += row.p.emplace_back(std::exp(v - most));
  for (S& v : row.p) v /= sum;
  row.log_sum = most + std::log(sum);
  return row;
}

// dz_e = p_e (dp_e - sum_j p_j dp_j)
inline std::vector<double> softmax_backward(const std::vector<double>& dp, const std::vector<double>& z) {
  const std::vector<double> p = softmax(z).p;
  double mean = 0;
  for (size_t e = 0; e < p.size(); ++e) mean += p[e] * dp[e];
  std::vector<double> dz;
  for (size_t e = 0; e < p.size(); ++e) dz.push_back(p[e] * (dp[e] - mean));
  return dz;
}

}  // namespace choir::kernels::reference
