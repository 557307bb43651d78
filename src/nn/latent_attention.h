// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are maps of one narrow
// latent row, which is all that a cache must hold. Forward and backward of the attention half of a block.
#pragma once

#include <cmath>
#include <optional>

#include "base/threads.h"
#include "kernels/attention.h"
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

// A query head is [q_nope | q_rope], its key [k_nope of the head | k_rope of all heads]; only the rope parts turn.
struct LatentShape {
  int heads = 0;
  int nope = 0, rotary = 0;  // widths of the two parts of a query or key head
  int value = 0;             // width of a value head
  int q_rank = 0;            // width of the query latent; 0 where there is none
  int kv_rank = 0;           // width of the latent of keys and values
  float scale = 0;           // of the scores; 0 means 1 / sqrt(nope + rotary)

  int key() const { return nope + rotary; }
  int cached() const { return kv_rank + rotary; }  // numbers that a cache holds for each token
  float factor() const { return scale != 0 ? scale : 1 / std::sqrt(static_cast<float>(key())); }
};

// The scale of the scores of a model whose positions are stretched as `rope` says: m^2 / sqrt(key_width), where m is
// kernels::yarn_growth(factor, mscale_all_dim) if that key is there, else 1. So DeepSeek's own code for V2 and V3;
// transformers leaves m^2 out for V2.
float latent_scale(int key_width, const kernels::RopeSpec& rope);

// T is Weight (to compute with) or Matrix<float> (gradients). H heads, R = kv_rank. What the model lacks has null data:
// q, or the three tensors of the query latent; the biases. kv_b holds [k_nope | v] of each head in turn.
template <class T>
struct LatentTensors {
  T norm;                   // (1,D)
  T q;                      // (H*key, D)
  T q_a, q_a_norm, q_b;     // (q_rank,D) (1,q_rank) (H*key, q_rank)
  T kv_a, kv_a_norm, kv_b;  // (R+rotary, D) (1,R) (H*(nope+value), R)
  T o;                      // (D, H*value)
  T q_a_bias, kv_a_bias, o_bias;
};

// Two ways to compute the same. kNaive makes keys and values of every head from the latent rows of the call. kAbsorbed
// leaves them as they are: as q_nope . (U c) = (U^T q_nope) . c, every head attends over the latent rows themselves,
// and what it gathers from them becomes its value afterwards.
enum class LatentForm { kNaive, kAbsorbed };

// What every layer of one call has in common.
struct LatentContext {
  LatentShape shape;
  float epsilon = 0;           // of the block's norm; the norms of the latents have their own, as in the models' code
  Matrix<const float> rope{};  // kernels::rope_table of `rotary` columns
  kernels::Pairs pairs = kernels::Pairs::kNeighbours;
  std::span<const int> positions{};       // of the N rows
  std::span<const Sequence> sequences{};  // kv_row counts in rows of the cache, or of the call where there is none
  LatentForm form = LatentForm::kAbsorbed;
  kernels::Sums sums = kernels::Sums::kLanes;  // of the linear maps, and of attention in the naive form
};

// Buffers of one layer and call, kept for the backward; they grow as needed.
struct LatentActivations {
  Buffer<float> normed, q;                        // (N,D) (N, H*key), q rotated
  Buffer<float> q_squeezed, q_latent;             // (N,q_rank): the query latent before and after its norm
  Buffer<float> squeezed, latent;                 // (N,cached): [c | k_rope] as kv_a gives it; [norm(c) | rotated]
  Buffer<float> expanded, keys, values;           // naive: (N, H*(nope+value)) (N, H*key) (N, H*value)
  Buffer<float> head_q, head_latent, head_value;  // absorbed: of some tokens at a time, head after head
  Buffer<float> splits;                           // absorbed: of attention, where few rows have a long context
  Buffer<float> mixed, log_sum;                   // (N, H*value) (N, H)
  PackedRoom blocks;
  NormActivations norm, q_norm, kv_norm;
  int rows = 0;

  void prepare(int n, int width, const LatentContext& context);
};

struct LatentStep {
  Matrix<const float> input;  // (N,D)
  Matrix<float> output;       // (N,D)
  // (rows, cached): the latent rows of earlier tokens; the forward writes those of the call behind them. Wants the
  // absorbed form. Without a cache the sequences must start at position 0 and kv_row = row.
  std::optional<Matrix<float>> cache;
};

// output = input + attention. In either form a row's bits depend on the tokens of its own sequence up to it alone, not
// on the other rows or on threads; in the absorbed form neither on how the tokens were cut into calls, nor on whether
// there is a cache. The forms agree within rounding. The naive one has less to do where sequences are long: some three
// times less attention with the widths of the published models.
void latent_attention_forward(const LatentContext& context, const LatentTensors<Weight>& weights,
                              const LatentStep& step, LatentActivations& activations, Threads& threads);

// Gradients within a backward, which layers and calls may share; they grow as needed.
struct LatentScratch {
  Buffer<float> mixed, q, k, v, normed, squeezed, q_squeezed;
};

// The gradient of the output on its way to that of the input, in place: on entry d output, on return d input.
struct LatentBackward {
  Matrix<const float> input;
  Matrix<float> dh;
  LatentScratch& scratch;
};

// Adds to the gradients. For a naive forward; weights must be float. Overwrites the activations.
void latent_attention_backward(const LatentContext& context, const LatentTensors<Weight>& weights,
                               LatentActivations& activations, const LatentBackward& backward,
                               const LatentTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::nn
