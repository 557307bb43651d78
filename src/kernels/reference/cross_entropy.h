// Negative log-likelihood of one row; S is double or std::complex<double>.
#pragma once

#include <algorithm>
#include <complex>
#include <vector>

namespace choir::kernels::reference {

// The largest logit is a constant that moves nothing: shift invariance makes its gradient zero.
template <class S>
S log_sum_exp(const std::vector<S>& logits) {
  double largest = std::real(logits[0]);
  for (const S& v : logits) largest = std::max(largest, std::real(v));
  S total = 0;
  for (const S& v : logits) total += std::exp(v - largest);
  return largest + std::log(total);
}

template <class S>
S cross_entropy(const std::vector<S>& logits, size_t target) {
  return log_sum_exp(logits) - logits[target];
}

inline std::vector<double> cross_entropy_backward(const std::vector<double>& logits, size_t target) {
  const double log_sum = log_sum_exp(logits);
  std::vector<double> gradient;
  for (const double v : logits) gradient.push_back(std::exp(v - log_sum));
  gradient[target] -= 1;
  return gradient;
}

}  // namespace choir::kernels::reference
