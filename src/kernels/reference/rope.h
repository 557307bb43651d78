// Rotary position embedding of one head, half-split pairs; S is double or std::complex<double>.
#pragma once

#include <complex>
#include <vector>

namespace choir::kernels::reference {

// direction +1 turns forward, -1 back: the rotation is orthogonal, so the backward of +1 is -1.
template <class S>
std::vector<S> rope(const std::vector<S>& head, int position, double theta, int direction) {
  const size_t half = head.size() / 2;
  std::vector<S> result(head.size());
  for (size_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head.size()));
    const double cosine = std::cos(position * frequency), sine = direction * std::sin(position * frequency);
    result[i] = head[i] * cosine - head[i + half] * sine;
    result[i + half] = head[i + half] * cosine + head[i] * sine;
  }
  return result;
}

inline std::vector<double> rope_backward(const std::vector<double>& dy, int position, double theta) {
  return rope(dy, position, theta, -1);
}

}  // namespace choir::kernels::reference
