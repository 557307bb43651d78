// Layer normalisation of rows, forward and backward (arXiv 1607.06450).
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

struct LayerNormWeights {
  std::span<const float> scale, bias;  // (D)
  float epsilon = 0;
};

// Of each row (N), kept for the backward: its mean, and 1 / sqrt(variance + epsilon).
struct LayerNormSums {
  std::span<float> mean, inverse_deviation;
};

// y (N,D) = (x - mean) / sqrt(variance + epsilon) * scale + bias. Rows are independent; y may be x.
void layer_norm_forward(Matrix<const float> x, const LayerNormWeights& weights, Matrix<float> y,
                        const LayerNormSums& sums, Threads& threads);

// What the backward reads besides dy: the forward's x (N,D), scale (D) and sums (N).
struct LayerNormSaved {
  Matrix<const float> x;
  std::span<const float> scale, mean, inverse_deviation;
};

struct LayerNormGradient {
  Matrix<float> dx;                // (N,D)
  std::span<float> dscale, dbias;  // (D)
};

// Adds to the gradients. The result does not depend on the number of threads.
void layer_norm_backward(Matrix<const float> dy, const LayerNormSaved& saved, const LayerNormGradient& gradient,
                         Threads& threads);

}  // namespace choir::kernels
