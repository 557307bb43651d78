// Linear maps with or without a bias, forward and backward, and those of many experts; of weights in either layout.
#pragma once

#include <initializer_list>

#include "base/threads.h"
#include "kernels/packed_gemm.h"
#include "tensor/buffer.h"

namespace choir::nn {

using base::Threads;
using tensor::Matrix;
using tensor::Weight;

// Room for a call's input as packed weights read it; grows as needed.
struct PackedRoom {
  tensor::Buffer<kernels::RowBlock> blocks;
  tensor::Buffer<uint32_t> pairs;
};

// y (N,O) = x (N,I) w (O,I)^T + bias (1,O). The bias is float; without data it is none.
struct LinearMap {
  const Weight& w;
  const Weight& bias;
  Matrix<float> y;
};

// Some maps of one x, which is quantised once where their weights are packed. `sums` is for weights in rows.
void linear_forward(Matrix<const float> x, std::initializer_list<LinearMap> maps, PackedRoom& room, Threads& threads,
                    kernels::Sums sums);

// The same of experts: kernels::grouped_forward of each product, or kernels::packed_forward of all of them. The weights
// of one product have one layout.
void experts_linear_forward(const kernels::Groups& groups, Matrix<const float> x,
                            std::span<const kernels::Product> products, PackedRoom& room, Threads& threads,
                            kernels::Sums sums);

// dw (O,I) += dy (N,O)^T x (N,I) and dbias (1,O) += the sum of dy's rows; a dbias without data is left out. The
// gradient of x is kernels::gemm_backward_input.
void linear_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Matrix<float> dbias,
                            Threads& threads, kernels::Sums sums = kernels::Sums::kPacked);

}  // namespace choir::nn
