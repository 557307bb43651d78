// Softmax of rows.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// p (N,E) = exp(z - log_sum), log_sum[t] = log sum_e exp(z_te). Rows are independent; a NaN gives a row of NaNs.
void softmax_forward(Matrix<const float> z, Matrix<float> p, std::span<float> log_sum, Threads& threads);

}  // namespace choir::kernels
