// Sums over blocks of a row's channels, and the row's square length: what a gate that averages channels reads.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// bound [E+1], ascending from 0 to D: block e is the channels bound[e] .. bound[e+1]-1.
// sums (N,E)[t][e] = sum of x_tj over block e; squares[t] = sum_j x_tj^2. Rows are independent.
void block_sums_forward(Matrix<const float> x, std::span<const int32_t> bound, Matrix<float> sums,
                        std::span<float> squares, Threads& threads);

struct BlockSumsGradient {
  Matrix<const float> sums;        // (N,E)
  std::span<const float> squares;  // [N]
};

// dx_tj += dsums_t,e(j) + 2 dsquares_t x_tj.
void block_sums_backward(const BlockSumsGradient& gradient, Matrix<const float> x, std::span<const int32_t> bound,
                         Matrix<float> dx, Threads& threads);

}  // namespace choir::kernels
