// silu(gate) * up of one row; S is double or std::complex<double>.
#pragma once

#include <complex>
#include <vector>

namespace choir::kernels::reference {

template <class S>
std::vector<S> swiglu(const std::vector<S>& gate, const std::vector<S>& up) {
  std::vector<S> h;
  for (size_t i = 0; i < gate.size(); ++i) h.push_back(gate[i] / (1.0 + std::exp(-gate[i])) * up[i]);
  return h;
}

struct SwigluGradient {
  std::vector<double> dgate, dup;
};

inline SwigluGradient swiglu_backward(const std::vector<double>& dh, const std::vector<double>& gate,
                                      const std::vector<double>& up) {
  SwigluGradient g;
  for (size_t i = 0; i < gate.size(); ++i) {
    const double s = 1 / (1 + std::exp(-gate[i]));
    g.dgate.push_back(dh[i] * up[i] * (s + gate[i] * s * (1 - s)));
    g.dup.push_back(dh[i] * gate[i] * s);
  }
  return g;
}

}  // namespace choir::kernels::reference
