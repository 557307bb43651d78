// h = silu(gate) * up, silu(g) = g / (1 + e^-g), forward and backward (arXiv 2002.05202).
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// gate, up and h are (M,F); h may be gate or up.
void swiglu_forward(Matrix<const float> gate, Matrix<const float> up, Matrix<float> h, Threads& threads);

// Overwrites gate with dgate and up with dup (both are read for the last time here), from dh (M,F).
void swiglu_backward(Matrix<const float> dh, Matrix<float> gate, Matrix<float> up, Threads& threads);

}  // namespace choir::kernels
