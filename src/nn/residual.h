// The residual stream: what a half of a block adds to its input.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::nn {

// y = x + share * y, element by element; both (N,D).
void add(tensor::Matrix<const float> x, tensor::Matrix<float> y, base::Threads& threads, float share = 1);

}  // namespace choir::nn
