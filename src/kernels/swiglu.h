// h = silu(gate) * up, silu(g) = g / (1 + e^-g), forward and backward (arXiv 2002.05202); and the clamped form of
// gpt-oss.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// Without a limit h = silu(gate) up. With one h = (u + 1) g s(alpha g), g = min(gate, limit), u = up clamped to -limit
// .. limit, s the logistic function (openai/gpt-oss, torch/model.py).
struct Activation {
  float limit = 0;  // 0: none
  float alpha = 1.702f;
};

// gate, up and h are (M,F); h may be gate or up.
void swiglu_forward(Matrix<const float> gate, Matrix<const float> up, Matrix<float> h, Threads& threads,
                    Activation activation = {});

// Overwrites gate with dgate and up with dup (both are read for the last time here), from dh (M,F). What lies beyond a
// limit gets no gradient, what lies on it does.
void swiglu_backward(Matrix<const float> dh, Matrix<float> gate, Matrix<float> up, Threads& threads,
                     Activation activation = {});

}  // namespace choir::kernels
