// Matrix products of float activations with weights in the format of their file.
//
// y = x W^T has each element summed over k in sixteen lanes, lane l taking k = l, l+16, ...: the value depends on its
// row of x and its row of W alone, whatever the other rows, the tile and the number of threads.
#pragma once

#include "base/threads.h"
#include "kernels/isa.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;
using tensor::Weight;

enum class Write { kSet, kAdd };

// y (N,O) = x (N,I) w (O,I)^T. The linear map of a layer.
void gemm_forward(Matrix<const float> x, const Weight& w, Matrix<float> y, Threads& threads);

// dx (N,I) = or += dy (N,O) w (O,I).
void gemm_backward_input(Matrix<const float> dy, Matrix<const float> w, Matrix<float> dx, Write write,
                         Threads& threads);

// dw (O,I) += dy (N,O)^T x (N,I), in one order of rows whatever the number of threads.
void gemm_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Threads& threads);

}  // namespace choir::kernels
