// Layer normalisation of one row; S is double or std::complex<double>.
#pragma once

#include <complex>
#include <vector>

namespace choir::kernels::reference {

template <class S>
std::vector<S> layer_norm(const std::vector<S>& x, const std::vector<S>& scale, const std::vector<S>& bias,
                          double epsilon) {
  const auto size = static_cast<double>(x.size());
  S mean = 0, variance = 0;
  for (const S& v : x) mean += v / size;
  for (const S& v : x) variance += (v - mean) * (v - mean) / size;
  std::vector<S> y;
  for (size_t d = 0; d < x.size(); ++d) y.push_back((x[d] - mean) / std::sqrt(variance + epsilon) * scale[d] + bias[d]);
  return y;
}

struct LayerNormGradient {
  std::vector<double> dx, dscale, dbias;
};

// With n = (x - mean) / deviation: dn_d/dx_j = (delta_dj - 1/D - n_d n_j / D) / deviation.
inline LayerNormGradient layer_norm_backward(const std::vector<double>& dy, const std::vector<double>& x,
                                             const std::vector<double>& scale, double epsilon) {
  const auto size = static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (const double v : x) mean += v / size;
  for (const double v : x) variance += (v - mean) * (v - mean) / size;
  const double deviation = std::sqrt(variance + epsilon);
  LayerNormGradient g;
  for (size_t j = 0; j < x.size(); ++j) {
    const double n = (x[j] - mean) / deviation;
    double dx = 0;
    for (size_t d = 0; d < x.size(); ++d)
      dx += dy[d] * scale[d] * ((d == j ? 1 : 0) - 1 / size - (x[d] - mean) / deviation * n / size) / deviation;
    g.dx.push_back(dx);
    g.dscale.push_back(dy[j] * n);
    g.dbias.push_back(dy[j]);
  }
  return g;
}

}  // namespace choir::kernels::reference
