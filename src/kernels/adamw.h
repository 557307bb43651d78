// AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2), one pass over a block of parameters.
#pragma once

#include <span>

#include "base/threads.h"
#include "tensor/dtype.h"

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

// The moments in half the memory. Each is rounded up or down at random, by its distance: a mean over 1000 steps moves
// by less than half a unit a step and would stand still otherwise. The draws depend on the step and on `begin`, the
// place of the first parameter, alone. Gradients must be finite.
struct AdamwNarrowState {
  std::span<float> value;
  std::span<tensor::BF16> first, second;
  std::span<const float> gradient;
  size_t begin = 0;
};

void adamw(const AdamwStep& step, const AdamwNarrowState& state, Threads& threads);

// Sum of squares in double, in blocks of fixed size: independent of the number of threads.
double sum_of_squares(std::span<const float> x, Threads& threads);

}  // namespace choir::kernels
