// Divergence of one row from a teacher's; S is double or std::complex<double>.
#pragma once

#include "kernels/reference/cross_entropy.h"

namespace choir::kernels::reference {

template <class S>
std::vector<S> over_temperature(const std::vector<S>& logits, double temperature) {
  std::vector<S> result;
  for (const S& v : logits) result.push_back(v / temperature);
  return result;
}

template <class S>
S soft_cross_entropy(const std::vector<S>& logits, const std::vector<double>& teacher, double temperature) {
  const std::vector<S> x = over_temperature(logits, temperature);
  const std::vector<double> y = over_temperature(teacher, temperature);
  const S log_sum = log_sum_exp(x);
  const double teacher_log_sum = log_sum_exp(y);
  S loss = 0;
  for (size_t v = 0; v < x.size(); ++v) {
    const double log_p = y[v] - teacher_log_sum;
    loss += std::exp(log_p) * (log_p - (x[v] - log_sum));
  }
  return temperature * temperature * loss;
}

inline std::vector<double> soft_cross_entropy_backward(const std::vector<double>& logits,
                                                       const std::vector<double>& teacher, double temperature) {
  const std::vector<double> x = over_temperature(logits, temperature), y = over_temperature(teacher, temperature);
  const double log_sum = log_sum_exp(x), teacher_log_sum = log_sum_exp(y);
  std::vector<double> gradient;
  for (size_t v = 0; v < x.size(); ++v)
    gradient.push_back(temperature * (std::exp(x[v] - log_sum) - std::exp(y[v] - teacher_log_sum)));
  return gradient;
}

}  // namespace choir::kernels::reference
