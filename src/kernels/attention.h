// Causal attention with grouped heads and an optional sliding window, forward and backward.
#pragma once

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

struct AttentionShape {
  int heads = 0, kv_heads = 0;  // query head h reads key-value head h / (heads / kv_heads)
  int head_width = 0;
  int window = 0;  // key j is visible to query i iff 0 <= i - j < window; 0 means no limit
};

// The new tokens of one sequence: rows [row, row + count) of q stand at positions first, first + 1, ...; the keys and
// values of positions 0, 1, ... are the rows from kv_row on of k and v.
struct Sequence {
  int row = 0, count = 0, first = 0, kv_row = 0;
};

// q (N, heads*W), k and v (rows, kv_heads*W), already rotated.
struct AttentionInput {
  AttentionShape shape;
  std::span<const Sequence> sequences;
  Matrix<const float> q, k, v;
};

// out (N, heads*W); log_sum (N, heads) = log sum_j exp(q.k_j / sqrt(W)) is kept for the backward. A row's result
// depends on its own position, keys and values only, whatever else the call holds and however many threads there are.
void attention_forward(const AttentionInput& in, Matrix<float> out, Matrix<float> log_sum, Threads& threads);

struct AttentionSaved {
  Matrix<const float> out, log_sum;  // of the forward
};

struct AttentionGradient {
  Matrix<float> dq, dk, dv;  // shapes of q, k, v; added to
};

// Every sequence must start at position 0, and no two may share keys. Independent of the number of threads.
void attention_backward(Matrix<const float> dout, const AttentionInput& in, const AttentionSaved& saved,
                        const AttentionGradient& gradient, Threads& threads);

// What all of these CHECK of their arguments.
void check_attention(const AttentionInput& in, Matrix<const float> out, Matrix<const float> log_sum);

}  // namespace choir::kernels
