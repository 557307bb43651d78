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

}  // namespace choir::kernels::reference
