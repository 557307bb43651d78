// Rotary position embedding of one head; S is double or std::complex<double>.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

#include "kernels/rope.h"

namespace choir::kernels::reference {

inline std::vector<double> plain_frequencies(size_t width, double theta) {
  std::vector<double> inverse;
  for (size_t i = 0; i < width / 2; ++i)
    inverse.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width)));
  return inverse;
}

struct Turned {
  std::vector<double> inverse;  // the angle of each pair at position 1
  double factor = 1;
  Pairs pairs = Pairs::kHalves;
  size_t offset = 0;
};

// direction +1 turns forward, -1 back: the map is a rotation times a factor, so the backward of +1 is -1.
template <class S>
std::vector<S> rope(const std::vector<S>& head, int position, const Turned& turned, int direction) {
  const size_t half = turned.inverse.size();
  std::vector<S> result = head;
  for (size_t i = 0; i < half; ++i) {
    const bool halves = turned.pairs == Pairs::kHalves;
    const size_t a = turned.offset + (halves ? i : 2 * i), b = halves ? a + half : a + 1;
    const double angle = position * turned.inverse[i];
    const double cosine = turned.factor * std::cos(angle), sine = direction * turned.factor * std::sin(angle);
    result[a] = head[a] * cosine - head[b] * sine;
    result[b] = head[b] * cosine + head[a] * sine;
  }
  return result;
}

// All W numbers of a head in half-split pairs, without a factor.
template <class S>
std::vector<S> rope(const std::vector<S>& head, int position, double theta, int direction) {
  return rope(head, position, Turned{plain_frequencies(head.size(), theta)}, direction);
}

inline std::vector<double> rope_backward(const std::vector<double>& dy, int position, const Turned& turned) {
  return rope(dy, position, turned, -1);
}

}  // namespace choir::kernels::reference
