// The norm of a residual stream or of a projection: RMS where there is no bias, LayerNorm where there is one.
#pragma once

#include "base/threads.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace choir::nn {

using base::Threads;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

struct Norm {
  std::span<const float> scale, bias;  // (D); an empty bias: RMS norm
  float epsilon = 0;

  Norm(std::span<const float> s, std::span<const float> b, float e) : scale(s), bias(b), epsilon(e) {}
  // Float vectors (1,D); a bias without data is none.
  Norm(const Weight& s, const Weight& b, float e);
};

// What the backward reads of each row of the forward. The buffers grow as needed.
struct NormActivations {
  Buffer<float> inverse;  // 1 / rms, or 1 / deviation
  Buffer<float> mean;     // of LayerNorm
};

// y (N,D) = norm(x). Rows are independent; y may be x where no backward follows.
void norm_forward(const Norm& norm, Matrix<const float> x, Matrix<float> y, NormActivations& activations,
                  Threads& threads);

struct NormBackward {
  Matrix<const float> x;  // of the forward
  const NormActivations& activations;
  Matrix<float> dx;                // (N,D), added to
  std::span<float> dscale, dbias;  // (D), added to; dbias is empty where the bias is
};

void norm_backward(const Norm& norm, Matrix<const float> dy, const NormBackward& backward, Threads& threads);

}  // namespace choir::nn
