// Causal attention with grouped heads and, where a model has them, a sliding window, values of another width than the
// keys, and sinks; forward and backward.
#pragma once

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// Where a cache holds them, keys and values lie in blocks of kKeyBlock positions, as the products of attention want
// them: sequence after sequence, in each head after head, in each block after block. In a block number c of the key of
// position p stands at c * kKeyBlock + p. Values are cut into panels of kValuePanel columns, the last one filled up to
// sixteens: from column c on they begin at c * kKeyBlock, and there every position is a row as wide as the panel.
constexpr int kKeyBlock = 64, kValuePanel = 64;

constexpr int in_sixteens(int columns) { return (columns + 15) / 16 * 16; }
constexpr int in_blocks(int positions) { return (positions + kKeyBlock - 1) / kKeyBlock * kKeyBlock; }
constexpr int value_panel(int values, int column) { return std::min(kValuePanel, in_sixteens(values - column)); }

struct AttentionShape {
  int heads = 0, kv_heads = 0;  // query head h reads key-value head h / (heads / kv_heads)
  int head_width = 0;           // W, of queries and keys
  int window = 0;               // key j is visible to query i iff 0 <= i - j < window; 0 means no limit
  int value_width = 0;          // U, of values and of what comes out; 0 means W
  float scale = 0;              // of the scores; 0 means 1 / sqrt(W)

  int values() const { return value_width > 0 ? value_width : head_width; }
  int key_block() const { return head_width * kKeyBlock; }  // numbers of one head in a block
  int value_block() const { return in_sixteens(values()) * kKeyBlock; }
  float factor() const { return scale != 0 ? scale : 1 / std::sqrt(static_cast<float>(head_width)); }
};

// The new tokens of one sequence: rows [row, row + count) of q stand at positions first, first + 1, ...; the keys and
// values of positions 0, 1, ... are the rows from kv_row on of k and v.
struct Sequence {
  int row = 0, count = 0, first = 0, kv_row = 0;
};

// q (N, heads*W) and k (rows, kv_heads*W), already rotated; v (rows, kv_heads*U), which may be columns of k. A sink is
// a score without a value: it takes its share of the softmax of every query of its head and adds nothing.
struct AttentionInput {
  AttentionShape shape;
  std::span<const Sequence> sequences;
  Matrix<const float> q, k, v;
  std::span<const float> sinks{};  // [heads], or empty; not scaled
  // For the forward that serves inference alone:
  int blocks = 0;           // of each head of a sequence: a row of k and v is a block, kv_row counts in positions
  bool by_heads = false;    // q (heads*N, W) and out (heads*N, U): row h * N + i is head h of row i
  std::span<float> room{};  // attention_room numbers let threads share few rows over a long context
};

// Of a call for few rows over many keys; 0 where it wants none.
size_t attention_room(const AttentionInput& in);

// out (N, heads*U); log_sum (N, heads) = log (sum_j exp(scale q.k_j) + exp(sink)) is kept for the backward. A row's
// result depends on its own position, keys and values only, whatever else the call holds and however many threads
// there are; among finite values, for 0 times a value that comes later may be added to it.
void attention_forward(const AttentionInput& in, Matrix<float> out, Matrix<float> log_sum, Threads& threads);

struct AttentionSaved {
  Matrix<const float> out, log_sum;  // of the forward
};

struct AttentionGradient {
  Matrix<float> dq, dk, dv;      // shapes of q, k, v; set
  std::span<float> dsinks = {};  // [heads], added to; empty where there are no sinks
};

// Every sequence must start at position 0, and no two may share keys. Independent of the number of threads.
void attention_backward(Matrix<const float> dout, const AttentionInput& in, const AttentionSaved& saved,
                        const AttentionGradient& gradient, Threads& threads);

// Where the first block of a head stands among the rows of k and v: kv_row is a multiple of a sequence's positions.
inline int first_block(const AttentionShape& shape, const Sequence& s, int kv_head, int blocks) {
  return s.kv_row / kKeyBlock * shape.kv_heads + kv_head * blocks;
}
void check_blocks(const AttentionShape& shape, const Sequence& s, int blocks, int rows);

// What all of these CHECK of their arguments.
void check_attention(const AttentionInput& in, Matrix<const float> out, Matrix<const float> log_sum);

}  // namespace choir::kernels
