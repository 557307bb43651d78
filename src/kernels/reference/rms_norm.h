// Root-mean-square normalisation of one row; S is double, or std::complex<double> for the gradient test.
#pragma once

#include <complex>
#include <vector>

namespace choir::kernels::reference {

template <class S>
std::vector<S> rms_norm(const std::vector<S>& x, const std::vector<S>& scale, double epsilon) {
  S squares = 0;
  for (const S& v : x) squares += v * v;
  const S r = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  std::vector<S> y;
  for (size_t d = 0; d < x.size(); ++d) y.push_back(x[d] * r * scale[d]);
  return y;
}

struct RmsNormGradient {
  std::vector<double> dx, dscale;
};

// dr/dx_d = -r^3 x_d / D.
inline RmsNormGradient rms_norm_backward(const std::vector<double>& dy, const std::vector<double>& x,
                                         const std::vector<double>& scale, double epsilon) {
  const auto size = static_cast<double>(x.size());
  double squares = 0, dr = 0;
  for (const double v : x) squares += v * v;
  const double r = 1 / std::sqrt(squares / size + epsilon);
  for (size_t d = 0; d < x.size(); ++d) dr += dy[d] * scale[d] * x[d];
  RmsNormGradient g;
  for (size_t d = 0; d < x.size(); ++d) {
    g.dx.push_back(dy[d] * scale[d] * r - dr * r * r * r * x[d] / size);
    g.dscale.push_back(dy[d] * x[d] * r);
  }
  return g;
}

}  // namespace choir::kernels::reference
