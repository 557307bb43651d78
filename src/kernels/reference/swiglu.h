// silu(gate) * up of one row, and the clamped form; S is double or std::complex<double>.
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

inline double real_of(double v) { return v; }
inline double real_of(const std::complex<double>& v) { return v.real(); }

// (u + 1) g / (1 + e^(-alpha g)), g = min(gate, limit), u = clamp(up, -limit, limit): openai/gpt-oss, torch/model.py.
template <class S>
std::vector<S> clamped_swiglu(std::vector<S> gate, std::vector<S> up, double limit, double alpha) {
  for (size_t i = 0; i < gate.size(); ++i) {
    if (real_of(gate[i]) > limit) gate[i] = limit;
    if (real_of(up[i]) > limit) up[i] = limit;
    if (real_of(up[i]) < -limit) up[i] = -limit;
    gate[i] = (up[i] + 1.0) * gate[i] / (1.0 + std::exp(-alpha * gate[i]));
  }
  return gate;
}

}  // namespace choir::kernels::reference
