// A linear map with or without a bias, forward and backward.
#pragma once

#include "base/threads.h"
#include "kernels/gemm.h"
#include "tensor/view.h"

namespace choir::nn {

using base::Threads;
using tensor::Matrix;
using tensor::Weight;

// y (N,O) = x (N,I) w (O,I)^T + bias (1,O). The bias is float; without data it is none.
void linear_forward(Matrix<const float> x, const Weight& w, const Weight& bias, Matrix<float> y, Threads& threads,
                    kernels::Sums sums);

// dw (O,I) += dy (N,O)^T x (N,I) and dbias (1,O) += the sum of dy's rows; a dbias without data is left out. The
// gradient of x is kernels::gemm_backward_input.
void linear_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Matrix<float> dbias,
                            Threads& threads);

}  // namespace choir::nn
