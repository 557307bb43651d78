// The logistic function of rows, and its shares.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// s (N,E) = 1 / (1 + e^-z). s may be z.
void sigmoid_forward(Matrix<const float> z, Matrix<float> s, Threads& threads);

// p (N,E): s_te / sum_j s_tj, a sum of 1 however small all s are.
void sigmoid_shares(Matrix<const float> z, Matrix<float> p, Threads& threads);

}  // namespace choir::kernels
