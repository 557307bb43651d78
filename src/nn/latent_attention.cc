#include "nn/latent_attention.h"

#include <algorithm>
#include <string>

#include "base/arena.h"
#include "base/error.h"
#include "kernels/attention_packed.h"
#include "kernels/grouped_gemm.h"
#include "kernels/transposed_gemm.h"
#include "kernels/work.h"
#include "nn/residual.h"

namespace choir::nn {
namespace {

using kernels::AttentionShape;
using kernels::Turn;
using kernels::Write;

constexpr float kLatentEpsilon = 1e-6f;  // DeepSeek's code gives the norms of the latents none of the config's
constexpr int kTokens = 64;  // whose absorbed queries stand in memory at a time: each is `cached` wide for every head

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

Matrix<float> columns(const Matrix<float>& m, int begin, int count) {
  return {m.data + begin, m.rows, count, m.stride};
}
Matrix<const float> columns(const Matrix<const float>& m, int begin, int count) {
  return {m.data + begin, m.rows, count, m.stride};
}

Weight slice_rows(const Weight& w, int begin, int count) { return {w.row(begin).data, w.type, count, w.cols}; }

// Calls body(row) for every row; rows must be independent.
template <class Body>
void each_row(int rows, Threads& threads, const Body& body) {
  constexpr int kRows = 16;
  threads.for_each((rows + kRows - 1) / kRows, [&](int piece) {
    for (int t = piece * kRows; t < std::min(rows, (piece + 1) * kRows); ++t) body(t);
  });
}

struct Views {
  Matrix<float> normed, q, q_squeezed, q_latent, squeezed, latent, mixed;

  Views(const LatentActivations& a, int width, const LatentShape& s)
      : normed(a.normed.matrix(a.rows, width)),
        q(a.q.matrix(a.rows, s.heads * s.key())),
        q_squeezed(a.q_squeezed.matrix(a.rows, s.q_rank)),
        q_latent(a.q_latent.matrix(a.rows, s.q_rank)),
        squeezed(a.squeezed.matrix(a.rows, s.cached())),
        latent(a.latent.matrix(a.rows, s.cached())),
        mixed(a.mixed.matrix(a.rows, s.heads * s.value)) {}
};

// What only the naive form has.
struct Expanded {
  Matrix<float> expanded, keys, values, log_sum;

  Expanded(const LatentActivations& a, const LatentShape& s)
      : expanded(a.expanded.matrix(a.rows, s.heads * (s.nope + s.value))),
        keys(a.keys.matrix(a.rows, s.heads * s.key())),
        values(a.values.matrix(a.rows, s.heads * s.value)),
        log_sum(a.log_sum.matrix(a.rows, s.heads)) {}
};

AttentionShape naive_shape(const LatentShape& s) {
  return {.heads = s.heads, .kv_heads = s.heads, .head_width = s.key(), .value_width = s.value, .scale = s.factor()};
}

// All heads read the same latent rows.
AttentionShape absorbed_shape(const LatentShape& s) {
  return {.heads = s.heads, .kv_heads = 1, .head_width = s.cached(), .value_width = s.kv_rank, .scale = s.factor()};
}

kernels::Rotation of_queries(const LatentContext& context) {
  return {
      .table = context.rope, .pairs = context.pairs, .head_width = context.shape.key(), .offset = context.shape.nope};
}
kernels::Rotation of_keys(const LatentContext& context) { return {.table = context.rope, .pairs = context.pairs}; }

void check(const LatentContext& context, const LatentTensors<Weight>& weights, const LatentStep& step) {
  const LatentShape& s = context.shape;
  const Weight& q = s.q_rank > 0 ? weights.q_b : weights.q;
  CHOIR_CHECK(context.rope.cols == s.rotary, std::to_string(context.rope.cols) + " columns for the rotation");
  CHOIR_CHECK(q.rows == s.heads * s.key(), std::to_string(q.rows) + " rows of queries");
  CHOIR_CHECK(weights.kv_a.rows == s.cached(), std::to_string(weights.kv_a.rows) + " rows of latents");
  CHOIR_CHECK(weights.kv_b.rows == s.heads * (s.nope + s.value) && weights.kv_b.cols == s.kv_rank,
              std::to_string(weights.kv_b.rows) + " x " + std::to_string(weights.kv_b.cols));
  CHOIR_CHECK(!step.cache || context.form == LatentForm::kAbsorbed, "a cache holds no keys for the naive form");
  CHOIR_CHECK(!step.cache || step.cache->cols == s.cached(), "a cache of other columns");
}

// The pieces of a forward.
struct Forward {
  const LatentContext& context;
  const LatentTensors<Weight>& weights;
  LatentActivations& activations;
  const Views& a;
  Threads& threads;

  const LatentShape& shape() const { return context.shape; }
  void linear(Matrix<const float> x, const Weight& w, const Weight& bias, Matrix<float> y) const {
    linear_forward(x, {{w, bias, y}}, activations.blocks, threads, context.sums);
  }
};

base::Work queries_work(const Forward& f) {
  const int rows = f.a.q.rows;
  if (f.shape().q_rank == 0) return kernels::product_work(rows, f.weights.q, {});
  base::Work work = kernels::product_work(rows, f.weights.q_a, f.weights.q_a_bias);
  return work += kernels::product_work(rows, f.weights.q_b, {});
}

void make_queries(const Forward& f) {
  base::Operator op(f.threads, "q", queries_work, f);
  if (f.shape().q_rank > 0) {
    f.linear(f.a.normed, f.weights.q_a, f.weights.q_a_bias, f.a.q_squeezed);
    norm_forward({f.weights.q_a_norm, {}, kLatentEpsilon}, f.a.q_squeezed, f.a.q_latent, f.activations.q_norm,
                 f.threads);
    f.linear(f.a.q_latent, f.weights.q_b, {}, f.a.q);
  } else {
    f.linear(f.a.normed, f.weights.q, {}, f.a.q);
  }
  op.next("rope", kernels::moved, f.a.q.rows, f.shape().heads * f.shape().rotary, 2);
  kernels::rope(f.a.q, f.context.positions, of_queries(f.context), Turn::kForward, f.threads);
}

void make_latents(const Forward& f) {
  const int rank = f.shape().kv_rank, rotary = f.shape().rotary;
  base::Operator op(f.threads, "kv", kernels::product_work, f.a.latent.rows, f.weights.kv_a, f.weights.kv_a_bias);
  f.linear(f.a.normed, f.weights.kv_a, f.weights.kv_a_bias, f.a.squeezed);
  norm_forward({f.weights.kv_a_norm, {}, kLatentEpsilon}, columns(f.a.squeezed, 0, rank), columns(f.a.latent, 0, rank),
               f.activations.kv_norm, f.threads);
  for (int t = 0; t < f.a.latent.rows; ++t) std::copy_n(f.a.squeezed[t] + rank, rotary, f.a.latent[t] + rank);
  op.next("rope", kernels::moved, f.a.latent.rows, rotary, 2);
  kernels::rope(columns(f.a.latent, rank, rotary), f.context.positions, of_keys(f.context), Turn::kForward, f.threads);
}

void append(const Forward& f, const Matrix<float>& cache) {
  const base::Operator op(f.threads, "cache", kernels::moved, f.a.latent.rows, f.a.latent.cols, 2);
  for (const Sequence& s : f.context.sequences) {
    const int at = s.kv_row + s.first;
    CHOIR_CHECK(at + s.count <= cache.rows, "the cache has " + std::to_string(cache.rows) + " rows");
    for (int i = 0; i < s.count; ++i) std::ranges::copy(f.a.latent.row(s.row + i), cache[at + i]);
  }
}

// The key of a head is [k_nope of the head | k_rope of all].
void attend_naive(const Forward& f) {
  const LatentShape& s = f.shape();
  const Expanded e(f.activations, s);
  base::Operator op(f.threads, "kv up", kernels::product_work, f.a.latent.rows, f.weights.kv_b, Weight());
  f.linear(columns(f.a.latent, 0, s.kv_rank), f.weights.kv_b, {}, e.expanded);
  each_row(f.a.latent.rows, f.threads, [&](int t) {
    const float *from = e.expanded[t], *turned = f.a.latent[t] + s.kv_rank;
    float *key = e.keys[t], *value = e.values[t];
    for (int h = 0; h < s.heads; ++h) {
      key = std::copy_n(turned, s.rotary, std::copy_n(from, s.nope, key));
      value = std::copy_n(from + s.nope, s.value, value);
      from += s.nope + s.value;
    }
  });
  const auto forward =
      f.context.sums == kernels::Sums::kLanes ? kernels::attention_forward : kernels::attention_forward_packed;
  const kernels::AttentionInput in{naive_shape(s), f.context.sequences, f.a.q, e.keys, e.values};
  op.next("attention", kernels::attention_work, in);
  forward(in, f.a.mixed, e.log_sum, f.threads);
}

// One form for few and for many new tokens, although a long prompt costs more here than with keys of its own: a score
// takes kv_rank + rotary products and a value kv_rank, instead of nope + rotary and value. If the form followed the
// number of tokens, a row's bits would follow how the prompt was cut. And keys of all heads would have to be made of
// the cache again in each call, or held beside it, which is what the latent rows are there to save.
//
// Of the tokens [first, first + count), head after head: row h * count + t is head h of token first + t.
struct Absorbed {
  int first, count;
  std::span<int32_t> offset, source;  // of the heads in those rows; where those lie among the rows of q
  std::span<Sequence> sequences;

  Absorbed(const LatentContext& context, int begin, int tokens, base::Frame& frame) : first(begin), count(tokens) {
    const int heads = context.shape.heads;
    const auto all = static_cast<size_t>(heads);
    offset = frame.list<int32_t>(all + 1);
    source = frame.list<int32_t>(all * static_cast<size_t>(count));
    sequences = frame.list<Sequence>(context.sequences.size());
    size_t found = 0;
    for (int h = 0; h < heads; ++h) {
      offset[h + 1] = (h + 1) * count;
      for (int t = 0; t < count; ++t) source[h * count + t] = (first + t) * heads + h;
    }
    for (const Sequence& s : context.sequences) {
      const int from = std::max(s.row, first), to = std::min(s.row + s.count, first + count);
      if (from < to) sequences[found++] = {from - first, to - from, s.first + from - s.row, s.kv_row};
    }
    sequences = sequences.first(found);
  }
};

// Of each head: U (nope, kv_rank), which makes its keys of a latent, and V (value, kv_rank), which makes its values.
struct HeadWeights {
  std::span<Weight> keys, values;

  HeadWeights(const Weight& kv_b, const LatentShape& s, base::Frame& frame)
      : keys(frame.list<Weight>(static_cast<size_t>(s.heads))), values(frame.list<Weight>(keys.size())) {
    for (int h = 0; h < s.heads; ++h) {
      keys[h] = slice_rows(kv_b, h * (s.nope + s.value), s.nope);
      values[h] = slice_rows(kv_b, h * (s.nope + s.value) + s.nope, s.value);
    }
  }
};

// q_nope . (U c) + q_rope . k_rope = [U^T q_nope | q_rope] . [c | k_rope], and sum_j p_j (V c_j) = V sum_j p_j c_j.
void absorb(const Forward& f, const HeadWeights& weights, const Absorbed& part, Matrix<const float> cached) {
  const LatentShape& s = f.shape();
  LatentActivations& buffers = f.activations;
  const int rows = s.heads * part.count;
  const Matrix<float> q = buffers.head_q.matrix(rows, s.cached()), latent = buffers.head_latent.matrix(rows, s.kv_rank),
                      value = buffers.head_value.matrix(rows, s.value);
  const Matrix<const float> heads(f.a.q.data, f.a.q.rows * s.heads, s.key());
  base::Operator op(f.threads, "kv up", kernels::grouped_work, part.offset, weights.keys, std::span<const Weight>());
  kernels::transposed_forward({part.offset, part.source}, columns(heads, 0, s.nope), weights.keys,
                              columns(q, 0, s.kv_rank), f.threads);
  each_row(rows, f.threads, [&](int i) { std::copy_n(heads[part.source[i]] + s.nope, s.rotary, q[i] + s.kv_rank); });
  kernels::AttentionInput in{absorbed_shape(s), part.sequences, q, cached, columns(cached, 0, s.kv_rank)};
  in.by_heads = true;
  op.next("attention", kernels::attention_work, in);
  buffers.splits.reserve(kernels::attention_room(in));
  in.room = buffers.splits.span();
  kernels::attention_forward(in, latent, buffers.log_sum.matrix(part.count, s.heads), f.threads);
  op.next("kv up", kernels::grouped_work, part.offset, weights.values, std::span<const Weight>());
  kernels::grouped_forward({part.offset, {}}, latent, weights.values, value, f.threads);
  const Matrix<float> mixed(f.a.mixed.data, f.a.mixed.rows * s.heads, s.value);
  each_row(rows, f.threads, [&](int i) { std::ranges::copy(value.row(i), mixed[part.source[i]]); });
}

void attend_absorbed(const Forward& f, Matrix<const float> cached) {
  base::Frame heads(f.threads);
  const HeadWeights weights(f.weights.kv_b, f.shape(), heads);
  for (int first = 0; first < f.a.latent.rows; first += kTokens) {
    base::Frame rows(f.threads);
    absorb(f, weights, Absorbed(f.context, first, std::min(kTokens, f.a.latent.rows - first), rows), cached);
  }
}

// The pieces of a backward; a's buffers are overwritten once their last reader is done.
struct Backward {
  const LatentContext& context;
  const LatentTensors<Weight>& weights;
  const LatentTensors<Matrix<float>>& gradients;
  LatentActivations& activations;
  const Views& a;
  LatentScratch& scratch;
  Matrix<float> dnormed;
  Threads& threads;

  const LatentShape& shape() const { return context.shape; }
};

Matrix<float> room(int rows, int cols, Buffer<float>& buffer) {
  buffer.reserve(area(rows, cols));
  return buffer.matrix(rows, cols);
}

// The same, for what is added to.
Matrix<float> cleared(int rows, int cols, Buffer<float>& buffer) {
  const Matrix<float> m = room(rows, cols, buffer);
  std::fill_n(m.data, area(rows, cols), 0.0f);
  return m;
}

// Of expanded: d k_nope and d value of each head side by side. Of k_rope: the sum over the heads.
void gather_keys(const Backward& b, Matrix<const float> dkeys, Matrix<const float> dvalues, Matrix<float> dexpanded,
                 Matrix<float> drope) {
  const LatentShape& s = b.shape();
  each_row(dkeys.rows, b.threads, [&](int t) {
    const float *key = dkeys[t], *value = dvalues[t];
    float* to = dexpanded[t];
    for (int h = 0; h < s.heads; ++h, key += s.key(), value += s.value) {
      to = std::copy_n(value, s.value, std::copy_n(key, s.nope, to));
      for (int i = 0; i < s.rotary; ++i) drope[t][i] += key[s.nope + i];
    }
  });
}

base::Work latents_backward_work(int rows, const LatentTensors<Weight>& weights) {
  base::Work work = kernels::product_backward_work(rows, weights.kv_a, weights.kv_a_bias);
  return work += kernels::product_backward_work(rows, weights.kv_b, {});
}

base::Work queries_backward_work(int rows, const LatentShape& shape, const LatentTensors<Weight>& weights) {
  if (shape.q_rank == 0) return kernels::product_backward_work(rows, weights.q, {});
  base::Work work = kernels::product_backward_work(rows, weights.q_a, weights.q_a_bias);
  return work += kernels::product_backward_work(rows, weights.q_b, {});
}

void latents_backward(const Backward& b, Matrix<const float> dkeys, Matrix<const float> dvalues) {
  const LatentShape& s = b.shape();
  const int n = b.a.latent.rows;
  const Matrix<float> dsqueezed = cleared(n, s.cached(), b.scratch.squeezed),
                      drope = columns(dsqueezed, s.kv_rank, s.rotary);
  const Matrix<float> dexpanded = Expanded(b.activations, s).expanded, c = columns(b.a.latent, 0, s.kv_rank);
  gather_keys(b, dkeys, dvalues, dexpanded, drope);
  kernels::rope(drope, b.context.positions, of_keys(b.context), Turn::kBack, b.threads);
  kernels::gemm_backward_weight(dexpanded, c, b.gradients.kv_b, b.threads, b.context.sums);
  kernels::gemm_backward_input(dexpanded, tensor::as_matrix(b.weights.kv_b), c, {Write::kSet, b.context.sums},
                               b.threads);
  norm_backward({b.weights.kv_a_norm, {}, kLatentEpsilon}, c,
                {columns(b.a.squeezed, 0, s.kv_rank),
                 b.activations.kv_norm,
                 columns(dsqueezed, 0, s.kv_rank),
                 b.gradients.kv_a_norm.row(0),
                 {}},
                b.threads);
  linear_backward_weight(dsqueezed, b.a.normed, b.gradients.kv_a, b.gradients.kv_a_bias, b.threads, b.context.sums);
  kernels::gemm_backward_input(dsqueezed, tensor::as_matrix(b.weights.kv_a), b.dnormed, {Write::kSet, b.context.sums},
                               b.threads);
}

void queries_backward(const Backward& b, Matrix<float> dq) {
  kernels::rope(dq, b.context.positions, of_queries(b.context), Turn::kBack, b.threads);
  if (b.shape().q_rank == 0) {
    kernels::gemm_backward_weight(dq, b.a.normed, b.gradients.q, b.threads, b.context.sums);
    kernels::gemm_backward_input(dq, tensor::as_matrix(b.weights.q), b.dnormed, {Write::kAdd, b.context.sums},
                                 b.threads);
    return;
  }
  const Matrix<float> latent = b.a.q_latent;
  const Matrix<float> dsqueezed = cleared(latent.rows, latent.cols, b.scratch.q_squeezed);
  kernels::gemm_backward_weight(dq, latent, b.gradients.q_b, b.threads, b.context.sums);
  kernels::gemm_backward_input(dq, tensor::as_matrix(b.weights.q_b), latent, {Write::kSet, b.context.sums}, b.threads);
  norm_backward({b.weights.q_a_norm, {}, kLatentEpsilon}, latent,
                {b.a.q_squeezed, b.activations.q_norm, dsqueezed, b.gradients.q_a_norm.row(0), {}}, b.threads);
  linear_backward_weight(dsqueezed, b.a.normed, b.gradients.q_a, b.gradients.q_a_bias, b.threads, b.context.sums);
  kernels::gemm_backward_input(dsqueezed, tensor::as_matrix(b.weights.q_a), b.dnormed, {Write::kAdd, b.context.sums},
                               b.threads);
}

}  // namespace

float latent_scale(int key_width, const kernels::RopeSpec& rope) {
  const bool grows = rope.kind == kernels::RopeSpec::Kind::kYarn && rope.mscale_all_dim != 0;
  const double m = grows ? kernels::yarn_growth(rope.factor, rope.mscale_all_dim) : 1;
  return static_cast<float>(m * m / std::sqrt(static_cast<double>(key_width)));
}

void LatentActivations::prepare(int n, int width, const LatentContext& context) {
  const LatentShape& s = context.shape;
  rows = n;
  normed.reserve(area(n, width));
  q.reserve(area(n, s.heads * s.key()));
  q_squeezed.reserve(area(n, s.q_rank));
  q_latent.reserve(area(n, s.q_rank));
  squeezed.reserve(area(n, s.cached()));
  latent.reserve(area(n, s.cached()));
  mixed.reserve(area(n, s.heads * s.value));
  log_sum.reserve(area(n, s.heads));
  if (context.form == LatentForm::kNaive) {
    expanded.reserve(area(n, s.heads * (s.nope + s.value)));
    keys.reserve(area(n, s.heads * s.key()));
    values.reserve(area(n, s.heads * s.value));
  } else {
    const int head_rows = s.heads * std::min(n, kTokens);
    head_q.reserve(area(head_rows, s.cached()));
    head_latent.reserve(area(head_rows, s.kv_rank));
    head_value.reserve(area(head_rows, s.value));
  }
}

void latent_attention_forward(const LatentContext& context, const LatentTensors<Weight>& weights,
                              const LatentStep& step, LatentActivations& activations, Threads& threads) {
  check(context, weights, step);
  activations.prepare(step.input.rows, step.input.cols, context);
  const Views a(activations, step.input.cols, context.shape);
  const Forward f{context, weights, activations, a, threads};
  norm_forward({weights.norm, {}, context.epsilon}, step.input, a.normed, activations.norm, threads);
  make_queries(f);
  make_latents(f);
  if (step.cache) append(f, *step.cache);
  if (context.form == LatentForm::kNaive)
    attend_naive(f);
  else
    attend_absorbed(f, step.cache.value_or(a.latent));
  const base::Operator op(threads, "o", kernels::product_work, a.q.rows, weights.o, weights.o_bias);
  f.linear(a.mixed, weights.o, weights.o_bias, step.output);
  add(step.input, step.output, threads);
}

void latent_attention_backward(const LatentContext& context, const LatentTensors<Weight>& weights,
                               LatentActivations& activations, const LatentBackward& backward,
                               const LatentTensors<Matrix<float>>& gradients, Threads& threads) {
  CHOIR_CHECK(context.form == LatentForm::kNaive, "the absorbed form keeps nothing for a backward");
  const Matrix<float> dh = backward.dh;
  const Views a(activations, dh.cols, context.shape);
  const Expanded e(activations, context.shape);
  const int n = a.q.rows;
  LatentScratch& scratch = backward.scratch;
  const kernels::AttentionGradient d{room(n, a.q.cols, scratch.q), room(n, e.keys.cols, scratch.k),
                                     room(n, e.values.cols, scratch.v)};
  const Matrix<float> dm = room(n, a.mixed.cols, scratch.mixed);

  base::Operator op(threads, "o", kernels::product_backward_work, n, weights.o, weights.o_bias);
  linear_backward_weight(dh, a.mixed, gradients.o, gradients.o_bias, threads, context.sums);
  kernels::gemm_backward_input(dh, tensor::as_matrix(weights.o), dm, {Write::kSet, context.sums}, threads);
  const kernels::AttentionInput in{naive_shape(context.shape), context.sequences, a.q, e.keys, e.values};
  op.next("attention", kernels::attention_backward_work, in);
  kernels::attention_backward(dm, in, {a.mixed, e.log_sum}, d, threads);
  const Backward b{context, weights, gradients, activations, a, scratch, room(n, dh.cols, scratch.normed), threads};
  op.next("kv", latents_backward_work, n, weights);
  latents_backward(b, d.dk, d.dv);
  op.next("q", queries_backward_work, n, context.shape, weights);
  queries_backward(b, d.dq);
  norm_backward({weights.norm, {}, context.epsilon}, b.dnormed,
                {backward.input, activations.norm, dh, gradients.norm.row(0), {}}, threads);
}

}  // namespace choir::nn
