// The attention half of a block: h + o(attention(rope(q, k), v)) of the normalised input, forward and backward. What a
// family does not have is absent and costs nothing.
#pragma once

#include <optional>

#include "base/threads.h"
#include "kernels/key_blocks.h"
#include "kernels/rope.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "tensor/buffer.h"

namespace choir::nn {

using base::Threads;
using kernels::Sequence;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// T is Weight (to compute with) or Matrix<float> (gradients). D width, W and U the widths of a head's keys and values.
// Vectors are float. Those after o are absent where they have no data; gradients are present where the weights are.
template <class T>
struct AttentionTensors {
  T norm;                                    // (1,D)
  T q, k, v, o;                              // (heads*W,D) (kv_heads*W,D) (kv_heads*U,D) (D,heads*U)
  T norm_bias{};                             // (1,D): the norm is a LayerNorm
  T q_bias{}, k_bias{}, v_bias{}, o_bias{};  // (1, rows of the weight)
  // RMS norms before the rotation, of each head (1,W) or of all of them together (1,heads*W) and (1,kv_heads*W).
  T q_norm{}, k_norm{};
  T sinks{};  // (1,heads)
};

// What a call of one layer needs besides its tensors.
struct AttentionContext {
  kernels::AttentionShape shape;               // its window is that of the layer
  float epsilon = 0;                           // of all norms
  Matrix<const float> rope;                    // kernels::rope_table; where it is narrower than W, a head's first turn
  std::span<const int> positions;              // of the N rows
  std::span<const Sequence> sequences;         // kv_row is a position of the cache, or a row where there is none
  kernels::Sums sums = kernels::Sums::kLanes;  // of the linear maps
  kernels::Pairs pairs = kernels::Pairs::kHalves;
  float clip = 0;      // q, k and v are held within [-clip, clip], after the norms of q and k; 0: no limit
  float residual = 1;  // what is added to the input is multiplied by it
};

// Buffers of one layer and call, kept for the backward; they grow as needed.
struct AttentionActivations {
  Buffer<float> normed, q, k, v, mixed, log_sum;
  Buffer<float> raw_q, raw_k, raw_v;  // before norm and clip, where there are any
  Buffer<float> splits;               // of attention, where few rows have a long context
  PackedRoom blocks;
  NormActivations norm, q_norm, k_norm;
  int rows = 0;

  void prepare(int n, int width, const kernels::AttentionShape& shape);
};

struct AttentionStep {
  Matrix<const float> input;  // (N,D)
  Matrix<float> output;       // (N,D)
  // Keys and values of earlier tokens; the forward writes those of the call behind them. Without a cache the sequences
  // must start at position 0 and kv_row = row.
  std::optional<kernels::KeyBlocks> cache;
};

// output = input + residual * attention.
void attention_layer_forward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                             const AttentionStep& step, AttentionActivations& activations, Threads& threads);

// Gradients within a backward, which layers and calls may share; they grow as needed.
struct AttentionScratch {
  Buffer<float> branch, mixed, q, k, v;  // branch: of what is added to the input, where that is scaled
};

// The gradient of the output on its way to that of the input, in place: on entry d output, on return d input.
struct AttentionBackward {
  Matrix<const float> input;
  Matrix<float> dh;
  AttentionScratch& scratch;
};

// Adds to the gradients. For a forward without a cache; weights must be float. Overwrites the activations.
void attention_layer_backward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                              AttentionActivations& activations, const AttentionBackward& backward,
                              const AttentionTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::nn
