// Causal attention of one sequence from position 0; S is double or std::complex<double>.
#pragma once

#include <vector>

#include "kernels/attention.h"
#include "kernels/reference/cross_entropy.h"

namespace choir::kernels::reference {

// Row-major: q (T, heads*W), k (T, kv_heads*W), v (T, kv_heads*U), sinks (heads) or none.
template <class S>
struct AttentionOf {
  AttentionShape shape;
  std::vector<S> q, k, v, sinks{};

  size_t heads() const { return static_cast<size_t>(shape.heads); }
  size_t width() const { return static_cast<size_t>(shape.head_width); }
  size_t values() const { return shape.value_width ? static_cast<size_t>(shape.value_width) : width(); }
  double scale() const { return shape.scale != 0 ? static_cast<double>(shape.scale) : 1 / std::sqrt(shape.head_width); }
  size_t q_cols() const { return heads() * width(); }
  size_t out_cols() const { return heads() * values(); }
  size_t k_cols() const { return static_cast<size_t>(shape.kv_heads) * width(); }
  size_t v_cols() const { return static_cast<size_t>(shape.kv_heads) * values(); }
  size_t rows() const { return q.size() / q_cols(); }
  size_t kv_head(size_t head) const { return head / static_cast<size_t>(shape.heads / shape.kv_heads); }
  size_t query(size_t i, size_t head) const { return i * q_cols() + head * width(); }
  size_t result(size_t i, size_t head) const { return i * out_cols() + head * values(); }
  size_t key(size_t j, size_t head) const { return j * k_cols() + kv_head(head) * width(); }
  size_t value(size_t j, size_t head) const { return j * v_cols() + kv_head(head) * values(); }
  bool sees(size_t i, size_t j) const {
    return j <= i && (shape.window == 0 || i - j < static_cast<size_t>(shape.window));
  }
};

// The softmax weights of query i over all keys and, last, the sink; a key out of sight weighs nothing.
template <class S>
std::vector<S> attention_weights(const AttentionOf<S>& in, size_t i, size_t head) {
  std::vector<S> seen;
  for (size_t j = 0; j < in.rows(); ++j) {
    S dot = 0;
    for (size_t c = 0; c < in.width(); ++c) dot += in.q[in.query(i, head) + c] * in.k[in.key(j, head) + c];
    if (in.sees(i, j)) seen.push_back(dot * in.scale());
  }
  if (!in.sinks.empty()) seen.push_back(in.sinks[head]);
  const S log_sum = log_sum_exp(seen);
  std::vector<S> weights;
  size_t next = 0;
  for (size_t j = 0; j < in.rows(); ++j) weights.push_back(in.sees(i, j) ? std::exp(seen[next++] - log_sum) : S(0));
  if (!in.sinks.empty()) weights.push_back(std::exp(seen[next] - log_sum));
  return weights;
}

template <class S>
std::vector<S> attention(const AttentionOf<S>& in) {
  std::vector<S> out(in.rows() * in.out_cols());
  for (size_t i = 0; i < in.rows(); ++i)
    for (size_t h = 0; h < in.heads(); ++h) {
      const std::vector<S> weights = attention_weights(in, i, h);
      for (size_t j = 0; j <= i; ++j)
        for (size_t c = 0; c < in.values(); ++c) out[in.result(i, h) + c] += weights[j] * in.v[in.value(j, h) + c];
    }
  return out;
}

struct AttentionGradients {
  std::vector<double> dq, dk, dv, dsinks;
};

// The backward of one query row of one head: p = softmax(s), ds_j = p_j (dp_j - sum_l p_l dp_l) with dp_j = dout.v_j;
// of a sink dp = 0.
inline void attention_row_backward(const std::vector<double>& dout, const AttentionOf<double>& in, size_t i, size_t h,
                                   AttentionGradients& g) {
  const std::vector<double> p = attention_weights(in, i, h);
  const size_t q = in.query(i, h), out = in.result(i, h);
  std::vector<double> dp(i + 1);
  double mean = 0;
  for (size_t j = 0; j <= i; ++j) {
    for (size_t c = 0; c < in.values(); ++c) dp[j] += dout[out + c] * in.v[in.value(j, h) + c];
    mean += p[j] * dp[j];
  }
  for (size_t j = 0; j <= i; ++j) {
    const double ds = p[j] * (dp[j] - mean) * in.scale();
    const size_t key = in.key(j, h), value = in.value(j, h);
    for (size_t c = 0; c < in.width(); ++c) {
      g.dq[q + c] += ds * in.k[key + c];
      g.dk[key + c] += ds * in.q[q + c];
    }
    for (size_t c = 0; c < in.values(); ++c) g.dv[value + c] += p[j] * dout[out + c];
  }
  if (!in.sinks.empty()) g.dsinks[h] -= p.back() * mean;
}

inline AttentionGradients attention_backward(const std::vector<double>& dout, const AttentionOf<double>& in) {
  AttentionGradients g{std::vector<double>(in.q.size()), std::vector<double>(in.k.size()),
                       std::vector<double>(in.v.size()), std::vector<double>(in.sinks.size())};
  for (size_t i = 0; i < in.rows(); ++i)
    for (size_t h = 0; h < in.heads(); ++h) attention_row_backward(dout, in, i, h, g);
  return g;
}

}  // namespace choir::kernels::reference
