// Sums over blocks of one row's channels and its square length; S is double or std::complex<double>.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

namespace choir::kernels::reference {

template <class S>
struct BlockSums {
  std::vector<S> sums;
  S square = 0;
};

template <class S>
BlockSums<S> block_sums(const std::vector<S>& x, const std::vector<int32_t>& bound) {
  BlockSums<S> out;
  for (size_t e = 0; e + 1 < bound.size(); ++e) {
    S sum = 0;
    for (int32_t j = bound[e]; j < bound[e + 1]; ++j) sum += x[static_cast<size_t>(j)];
    out.sums.push_back(sum);
  }
  for (const S& v : x) out.square += v * v;
  return out;
}

inline std::vector<double> block_sums_backward(const BlockSums<double>& gradient, const std::vector<double>& x,
                                               const std::vector<int32_t>& bound) {
  std::vector<double> dx;
  for (size_t e = 0; e + 1 < bound.size(); ++e)
    for (int32_t j = bound[e]; j < bound[e + 1]; ++j)
      dx.push_back(gradient.sums[e] + 2 * gradient.square * x[static_cast<size_t>(j)]);
  return dx;
}

}  // namespace choir::kernels::reference
