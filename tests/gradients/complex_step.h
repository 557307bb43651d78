// Derivatives without cancellation: L(v + i h e_k) = L(v) + i h dL/dv_k + O(h^2), so Im L / h is the derivative.
// With h = 1e-50 the error is that of double arithmetic. L must be analytic: compare by real part, use x * x for |x|^2.
#pragma once

#include <complex>
#include <vector>

namespace choir {

template <class Loss>
std::vector<double> complex_step(const std::vector<double>& v, const Loss& loss) {
  constexpr double h = 1e-50;
  std::vector<std::complex<double>> z(v.begin(), v.end());
  std::vector<double> gradient;
  for (size_t k = 0; k < v.size(); ++k) {
    z[k] = {v[k], h};
    gradient.push_back(loss(z).imag() / h);
    z[k] = v[k];
  }
  return gradient;
}

}  // namespace choir
