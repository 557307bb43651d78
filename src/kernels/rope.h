// Rotary position embedding, half-split pairs (i, i + W/2) of each head (arXiv 2104.09864).
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// Row p holds cos (first W/2 columns) and sin (last W/2) of p * theta^(-2i/W), i = 0 .. W/2-1; angles in double.
void rope_table(float theta, Matrix<float> table);

enum class Turn { kForward, kBack };  // kBack turns by minus the angle: the backward of kForward

// Rotates every head of every row of x (N, H*W) in place; row i stands at position[i] < table.rows; W = table.cols.
void rope(Matrix<float> x, std::span<const int> position, Matrix<const float> table, Turn turn, Threads& threads);

}  // namespace choir::kernels
