// Root-mean-square normalisation of rows, forward and backward (arXiv 1910.07467).
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// y (N,D) from x (N,D) and scale (D); inverse_rms (N) is kept for the backward. Rows are independent.
void rms_norm_forward(Matrix<const float> x, std::span<const float> scale, float epsilon, Matrix<float> y,
                      std::span<float> inverse_rms, Threads& threads);

// What the backward reads besides dy: the forward's x (N,D), scale (D) and inverse_rms (N).
struct RmsNormSaved {
  Matrix<const float> x;
  std::span<const float> scale, inverse_rms;
};

// Adds to dx (N,D) and dscale (D). The result does not depend on the number of threads.
void rms_norm_backward(Matrix<const float> dy, const RmsNormSaved& saved, Matrix<float> dx, std::span<float> dscale,
                       Threads& threads);

}  // namespace choir::kernels
