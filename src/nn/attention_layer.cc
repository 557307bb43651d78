#include "nn/attention_layer.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/error.h"
#include "kernels/attention_packed.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "nn/residual.h"

namespace choir::nn {
namespace {

using kernels::AttentionShape;

struct Views {
  Matrix<float> normed, q, k, v, mixed, log_sum;

  Views(const AttentionActivations& a, int width, const AttentionShape& shape)
      : normed(a.normed.matrix(a.rows, width)),
        q(a.q.matrix(a.rows, shape.heads * shape.head_width)),
        k(a.k.matrix(a.rows, shape.kv_heads * shape.head_width)),
        v(a.v.matrix(a.rows, shape.kv_heads * shape.head_width)),
        mixed(a.mixed.matrix(a.rows, shape.heads * shape.head_width)),
        log_sum(a.log_sum.matrix(a.rows, shape.heads)) {}
};

void append(const AttentionContext& context, const Views& views, const KeysValues& cache) {
  for (const Sequence& s : context.sequences) {
    const int at = s.kv_row + s.first;
    CHOIR_CHECK(at + s.count <= cache.k.rows, "the cache has " + std::to_string(cache.k.rows) + " rows");
    for (int i = 0; i < s.count; ++i) {
      std::ranges::copy(views.k.row(s.row + i), cache.k[at + i]);
      std::ranges::copy(views.v.row(s.row + i), cache.v[at + i]);
    }
  }
}

}  // namespace

void AttentionActivations::prepare(int n, int width, const AttentionShape& shape) {
  const auto room = [n](int columns) { return static_cast<size_t>(n) * static_cast<size_t>(columns); };
  rows = n;
  normed.reserve(room(width));
  inverse_rms.reserve(room(1));
  q.reserve(room(shape.heads * shape.head_width));
  k.reserve(room(shape.kv_heads * shape.head_width));
  v.reserve(room(shape.kv_heads * shape.head_width));
  mixed.reserve(room(shape.heads * shape.head_width));
  log_sum.reserve(room(shape.heads));
}

void attention_layer_forward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                             const AttentionStep& step, AttentionActivations& activations, Threads& threads) {
  const Matrix<const float> input = step.input;
  activations.prepare(input.rows, input.cols, context.shape);
  const Views a(activations, input.cols, context.shape);
  kernels::rms_norm_forward(input, tensor::as_vector(weights.norm), context.epsilon, a.normed,
                            activations.inverse_rms.span().first(static_cast<size_t>(input.rows)), threads);
  kernels::gemm_forward(a.normed, weights.q, a.q, threads, context.sums);
  kernels::gemm_forward(a.normed, weights.k, a.k, threads, context.sums);
  kernels::gemm_forward(a.normed, weights.v, a.v, threads, context.sums);
  kernels::rope(a.q, context.positions, context.rope, kernels::Turn::kForward, threads);
  kernels::rope(a.k, context.positions, context.rope, kernels::Turn::kForward, threads);
  if (step.cache) append(context, a, *step.cache);
  const KeysValues keys_values = step.cache.value_or(KeysValues{a.k, a.v});
  const auto forward =
      context.sums == kernels::Sums::kPacked ? kernels::attention_forward_packed : kernels::attention_forward;
  forward({context.shape, context.sequences, a.q, keys_values.k, keys_values.v}, a.mixed, a.log_sum, threads);
  kernels::gemm_forward(a.mixed, weights.o, step.output, threads, context.sums);
  add(input, step.output, threads);
}

// The forward's lines in reverse. The buffer of q takes d mixed first, then that of mixed takes d q, and so on: each
// is overwritten once its last reader is done.
void attention_layer_backward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                              AttentionActivations& activations, const AttentionBackward& backward,
                              const AttentionTensors<Matrix<float>>& gradients, Threads& threads) {
  const Matrix<float> dh = backward.dh;
  const Views a(activations, dh.cols, context.shape);
  const size_t q_size = static_cast<size_t>(a.q.rows) * static_cast<size_t>(a.q.cols);
  const size_t k_size = static_cast<size_t>(a.k.rows) * static_cast<size_t>(a.k.cols);
  Buffer<float> dmixed(q_size), dq(q_size), dk(k_size), dv(k_size);
  const kernels::AttentionGradient d{dq.matrix(a.q.rows, a.q.cols), dk.matrix(a.k.rows, a.k.cols),
                                     dv.matrix(a.v.rows, a.v.cols)};
  const Matrix<float> dm = dmixed.matrix(a.q.rows, a.q.cols);

  kernels::gemm_backward_weight(dh, a.mixed, gradients.o, threads);
  kernels::gemm_backward_input(dh, tensor::as_matrix(weights.o), dm, kernels::Write::kSet, threads);
  kernels::attention_backward(dm, {context.shape, context.sequences, a.q, a.k, a.v}, {a.mixed, a.log_sum}, d, threads);
  kernels::rope(d.dq, context.positions, context.rope, kernels::Turn::kBack, threads);
  kernels::rope(d.dk, context.positions, context.rope, kernels::Turn::kBack, threads);
  kernels::gemm_backward_weight(d.dq, a.normed, gradients.q, threads);
  kernels::gemm_backward_weight(d.dk, a.normed, gradients.k, threads);
  kernels::gemm_backward_weight(d.dv, a.normed, gradients.v, threads);
  const Matrix<float> dnormed = a.normed;
  kernels::gemm_backward_input(d.dq, tensor::as_matrix(weights.q), dnormed, kernels::Write::kSet, threads);
  kernels::gemm_backward_input(d.dk, tensor::as_matrix(weights.k), dnormed, kernels::Write::kAdd, threads);
  kernels::gemm_backward_input(d.dv, tensor::as_matrix(weights.v), dnormed, kernels::Write::kAdd, threads);
  const kernels::RmsNormSaved saved{backward.input, tensor::as_vector(weights.norm),
                                    activations.inverse_rms.span().first(static_cast<size_t>(dh.rows))};
  kernels::rms_norm_backward(dnormed, saved, dh, gradients.norm.row(0), threads);
}

}  // namespace choir::nn
