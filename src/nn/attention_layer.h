// The attention half of a block: h + o(attention(rope(q, k), v)) of the normalised input, forward and backward.
#pragma once

#include <optional>

#include "base/threads.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "tensor/buffer.h"

namespace choir::nn {

using base::Threads;
using kernels::Sequence;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// T is Weight (to compute with) or Matrix<float> (gradients). D width, Q = heads * W, KV = kv_heads * W.
template <class T>
struct AttentionTensors {
  T norm;        // (1,D)
  T q, k, v, o;  // (Q,D) (KV,D) (KV,D) (D,Q)
};

// What every layer of one call has in common.
struct AttentionContext {
  kernels::AttentionShape shape;
  float epsilon = 0;
  Matrix<const float> rope;                    // kernels::rope_table
  std::span<const int> positions;              // of the N rows
  std::span<const Sequence> sequences;         // kv_row counts in rows of the cache, or of the call where there is none
  kernels::Sums sums = kernels::Sums::kLanes;  // of the linear maps
};

// Keys and values of earlier tokens; the forward writes those of the call behind them.
struct KeysValues {
  Matrix<float> k, v;  // (rows, KV)
};

// Buffers of one layer and call, kept for the backward; they grow as needed.
struct AttentionActivations {
  Buffer<float> normed, inverse_rms, q, k, v, mixed, log_sum;
  int rows = 0;

  void prepare(int n, int width, const kernels::AttentionShape& shape);
};

struct AttentionStep {
  Matrix<const float> input;        // (N,D)
  Matrix<float> output;             // (N,D)
  std::optional<KeysValues> cache;  // without one the sequences must start at position 0 and kv_row = row
};

// output = input + attention.
void attention_layer_forward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                             const AttentionStep& step, AttentionActivations& activations, Threads& threads);

// The gradient of the output on its way to that of the input, in place: on entry d output, on return d input.
struct AttentionBackward {
  Matrix<const float> input;
  Matrix<float> dh;
};

// Adds to the gradients. For a forward without a cache; weights must be float. Overwrites the activations.
void attention_layer_backward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                              AttentionActivations& activations, const AttentionBackward& backward,
                              const AttentionTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::nn
