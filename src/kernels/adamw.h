// AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2), one pass over a block of parameters.
#pragma once

#include <span>

#include "base/threads.h"

namespace choir::kernels {

using base::Threads;

struct AdamwStep {
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  int step;              // 1, 2, ...: for the bias correction
  float gradient_scale;  // multiplies the gradient first (clipping)
};

// The four spans have one length.
struct AdamwState {
  std::span<float> value, first, second;
  std::span<const float> gradient;
};

void adamw(const AdamwStep& step, const AdamwState& state, Threads& threads);

// Sum of squares in double, in blocks of fixed size: independent of the number of threads.
double sum_of_squares(std::span<const float> x, Threads& threads);

}  // namespace choir::kernels
