#include "nn/attention_layer.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "kernels/attention_packed.h"
#include "kernels/work.h"
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
        v(a.v.matrix(a.rows, shape.kv_heads * shape.values())),
        mixed(a.mixed.matrix(a.rows, shape.heads * shape.values())),
        log_sum(a.log_sum.matrix(a.rows, shape.heads)) {}
};

size_t area(Matrix<const float> m) { return static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols); }

Matrix<float> room_like(Matrix<const float> m, Buffer<float>& room) {
  room.reserve(area(m));
  return room.matrix(m.rows, m.cols);
}

// One of q, k and v between its linear map and the rotation.
struct Refined {
  Weight norm;                   // (1,W) or (1,heads*W), or without data
  NormActivations* activations;  // of the norm
  Buffer<float>& raw;            // before norm and clip
  Matrix<float> y;               // after them
};

bool refines(const AttentionContext& context, const Weight& norm) { return norm.data || context.clip > 0; }

// Rows as wide as the norm: of single heads, or of all of them. m is without gaps.
template <class T>
Matrix<T> rows_of(const Weight& norm, Matrix<T> m) {
  return {m.data, m.rows * (m.cols / norm.cols), norm.cols};
}

void apply_norm(const AttentionContext& context, const Refined& r, Threads& threads) {
  const Matrix<const float> raw = r.raw.matrix(r.y.rows, r.y.cols);
  if (!r.norm.data) {
    std::copy_n(raw.data, area(raw), r.y.data);
    return;
  }
  CHOIR_CHECK(r.norm.cols == context.shape.head_width || r.norm.cols == r.y.cols,
              "a norm of " + std::to_string(r.norm.cols) + " numbers");
  norm_forward({r.norm, {}, context.epsilon}, rows_of(r.norm, raw), rows_of(r.norm, r.y), *r.activations, threads);
}

// Where the linear map writes: room for what comes before norm and clip, or y itself.
Matrix<float> projected(const AttentionContext& context, const Refined& r) {
  if (!refines(context, r.norm)) return r.y;
  r.raw.reserve(area(r.y));
  return r.raw.matrix(r.y.rows, r.y.cols);
}

void refine(const AttentionContext& context, const Refined& r, Threads& threads) {
  if (!refines(context, r.norm)) return;
  apply_norm(context, r, threads);
  if (context.clip > 0)
    for (size_t i = 0; i < area(r.y); ++i) r.y.data[i] = std::clamp(r.y.data[i], -context.clip, context.clip);
}

// From the gradient of what the rotation took to that of what the linear map gave. Changes dy; y serves as room.
Matrix<float> unrefine(const AttentionContext& context, const Refined& r, Matrix<float> dy, Matrix<float> dnorm,
                       Threads& threads) {
  if (!refines(context, r.norm)) return dy;
  if (context.clip > 0) {
    apply_norm(context, r, threads);
    for (size_t i = 0; i < area(dy); ++i)
      if (std::abs(r.y.data[i]) > context.clip) dy.data[i] = 0;
  }
  if (!r.norm.data) return dy;
  std::fill_n(r.y.data, area(r.y), 0.0f);
  const Matrix<const float> raw = r.raw.matrix(dy.rows, dy.cols);
  norm_backward({r.norm, {}, context.epsilon}, rows_of(r.norm, Matrix<const float>(dy)),
                {rows_of(r.norm, raw), *r.activations, rows_of(r.norm, r.y), dnorm.row(0), {}}, threads);
  return r.y;
}

struct RefinedAll {
  Refined q, k, v;

  RefinedAll(const AttentionTensors<Weight>& weights, AttentionActivations& a, const Views& views)
      : q{weights.q_norm, &a.q_norm, a.raw_q, views.q},
        k{weights.k_norm, &a.k_norm, a.raw_k, views.k},
        v{{}, nullptr, a.raw_v, views.v} {}
};

kernels::AttentionInput attention_input(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                                        Matrix<const float> q, Matrix<const float> k, Matrix<const float> v) {
  kernels::AttentionInput in{context.shape, context.sequences, q, k, v};
  if (weights.sinks.data) in.sinks = tensor::as_vector(weights.sinks);
  return in;
}

// Of the three linear maps, forward or backward.
base::Work qkv_work(int rows, const AttentionTensors<Weight>& weights, kernels::WorkOfProduct& of) {
  base::Work work = of(rows, weights.q, weights.q_bias);
  work += of(rows, weights.k, weights.k_bias);
  return work += of(rows, weights.v, weights.v_bias);
}

void turn(const AttentionContext& context, Matrix<float> q, Matrix<float> k, kernels::Turn way, Threads& threads) {
  const base::Operator op(threads, "rope", kernels::moved, q.rows, q.cols + k.cols, 2);
  const kernels::Rotation rotation{context.rope, context.pairs, context.shape.head_width};
  kernels::rope(q, context.positions, rotation, way, threads);
  kernels::rope(k, context.positions, rotation, way, threads);
}

// Writes the keys and values of the call, which are then read where the earlier ones are.
void append(kernels::AttentionInput& in, const kernels::KeyBlocks& cache, Threads& threads) {
  const base::Operator op(threads, "cache", kernels::moved, in.k.rows, in.k.cols + in.v.cols, 2);
  kernels::store_keys(in, cache, threads);
  in.k = cache.k;
  in.v = cache.v;
  in.blocks = cache.blocks;
}

void attend(kernels::AttentionInput& in, kernels::Sums sums, const Views& a, Buffer<float>& room, Threads& threads) {
  if (sums != kernels::Sums::kLanes) return kernels::attention_forward_packed(in, a.mixed, a.log_sum, threads);
  room.reserve(kernels::attention_room(in));
  in.room = room.span();
  kernels::attention_forward(in, a.mixed, a.log_sum, threads);
}

}  // namespace

void AttentionActivations::prepare(int n, int width, const AttentionShape& shape) {
  const auto room = [n](int columns) { return static_cast<size_t>(n) * static_cast<size_t>(columns); };
  rows = n;
  normed.reserve(room(width));
  q.reserve(room(shape.heads * shape.head_width));
  k.reserve(room(shape.kv_heads * shape.head_width));
  v.reserve(room(shape.kv_heads * shape.values()));
  mixed.reserve(room(shape.heads * shape.values()));
  log_sum.reserve(room(shape.heads));
}

void attention_layer_forward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                             const AttentionStep& step, AttentionActivations& activations, Threads& threads) {
  const Matrix<const float> input = step.input;
  activations.prepare(input.rows, input.cols, context.shape);
  const Views a(activations, input.cols, context.shape);
  const RefinedAll refined(weights, activations, a);
  norm_forward({weights.norm, weights.norm_bias, context.epsilon}, input, a.normed, activations.norm, threads);
  base::Operator op(threads, "qkv", qkv_work, input.rows, weights, kernels::product_work);
  linear_forward(a.normed,
                 {{weights.q, weights.q_bias, projected(context, refined.q)},
                  {weights.k, weights.k_bias, projected(context, refined.k)},
                  {weights.v, weights.v_bias, projected(context, refined.v)}},
                 activations.blocks, threads, context.sums);
  for (const Refined* r : {&refined.q, &refined.k, &refined.v}) refine(context, *r, threads);
  turn(context, a.q, a.k, kernels::Turn::kForward, threads);
  kernels::AttentionInput in = attention_input(context, weights, a.q, a.k, a.v);
  if (step.cache) append(in, *step.cache, threads);
  op.next("attention", kernels::attention_work, in);
  attend(in, context.sums, a, activations.splits, threads);
  op.next("o", kernels::product_work, input.rows, weights.o, weights.o_bias);
  linear_forward(a.mixed, {{weights.o, weights.o_bias, step.output}}, activations.blocks, threads, context.sums);
  add(input, step.output, threads, context.residual);
}

// The forward's lines in reverse. The buffers of q and k take d raw where they are refined, that of normed takes
// d normed: each is overwritten once its last reader is done.
void attention_layer_backward(const AttentionContext& context, const AttentionTensors<Weight>& weights,
                              AttentionActivations& activations, const AttentionBackward& backward,
                              const AttentionTensors<Matrix<float>>& gradients, Threads& threads) {
  const Matrix<float> dh = backward.dh;
  const Views a(activations, dh.cols, context.shape);
  const RefinedAll refined(weights, activations, a);
  Matrix<float> dbranch = dh;  // of what the residual stream is added to
  if (context.residual != 1) {
    dbranch = room_like(dh, backward.scratch.branch);
    for (int i = 0; i < dh.rows; ++i)
      std::ranges::transform(dh.row(i), dbranch[i], [&](float v) { return context.residual * v; });
  }
  const Matrix<float> dmixed = room_like(a.mixed, backward.scratch.mixed);
  kernels::AttentionGradient d{room_like(a.q, backward.scratch.q), room_like(a.k, backward.scratch.k),
                               room_like(a.v, backward.scratch.v)};
  if (gradients.sinks.data) d.dsinks = gradients.sinks.row(0);

  base::Operator op(threads, "o", kernels::product_backward_work, dh.rows, weights.o, weights.o_bias);
  linear_backward_weight(dbranch, a.mixed, gradients.o, gradients.o_bias, threads, context.sums);
  kernels::gemm_backward_input(dbranch, tensor::as_matrix(weights.o), dmixed, {kernels::Write::kSet, context.sums},
                               threads);
  const kernels::AttentionInput in = attention_input(context, weights, a.q, a.k, a.v);
  op.next("attention", kernels::attention_backward_work, in);
  kernels::attention_backward(dmixed, in, {a.mixed, a.log_sum}, d, threads);
  turn(context, d.dq, d.dk, kernels::Turn::kBack, threads);
  const Matrix<float> dq = unrefine(context, refined.q, d.dq, gradients.q_norm, threads);
  const Matrix<float> dk = unrefine(context, refined.k, d.dk, gradients.k_norm, threads);
  const Matrix<float> dv = unrefine(context, refined.v, d.dv, {}, threads);
  op.next("qkv", qkv_work, dh.rows, weights, kernels::product_backward_work);
  linear_backward_weight(dq, a.normed, gradients.q, gradients.q_bias, threads, context.sums);
  linear_backward_weight(dk, a.normed, gradients.k, gradients.k_bias, threads, context.sums);
  linear_backward_weight(dv, a.normed, gradients.v, gradients.v_bias, threads, context.sums);
  const Matrix<float> dnormed = a.normed;
  kernels::gemm_backward_input(dq, tensor::as_matrix(weights.q), dnormed, {kernels::Write::kSet, context.sums},
                               threads);
  kernels::gemm_backward_input(dk, tensor::as_matrix(weights.k), dnormed, {kernels::Write::kAdd, context.sums},
                               threads);
  kernels::gemm_backward_input(dv, tensor::as_matrix(weights.v), dnormed, {kernels::Write::kAdd, context.sums},
                               threads);
  norm_backward({weights.norm, weights.norm_bias, context.epsilon}, dnormed,
                {backward.input, activations.norm, dh, gradients.norm.row(0),
                 gradients.norm_bias.data ? gradients.norm_bias.row(0) : std::span<float>()},
                threads);
}

}  // namespace choir::nn
