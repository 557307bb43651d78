// Causal attention of one sequence from position 0; S is double or std::complex<double>.
#pragma once

#include <vector>

#include "kernels/attention.h"
#include "kernels/reference/cross_entropy.h"

namespace choir::kernels::reference {

// Row-major: q (T, heads*W), k and v (T, kv_heads*W).
template <class S>
struct AttentionOf {
  AttentionShape shape;
  std::vector<S> q, k, v;

  size_t width() const { return static_cast<size_t>(shape.head_width); }
  size_t q_cols() const { return static_cast<size_t>(shape.heads) * width(); }
  size_t kv_cols() const { return static_cast<size_t>(shape.kv_heads) * width(); }
  size_t rows() const { return q.size() / q_cols(); }
  size_t query(size_t i, size_t head) const { return i * q_cols() + head * width(); }
  size_t key(size_t j, size_t head) const {
    return j * kv_cols() + head / static_cast<size_t>(shape.heads / shape.kv_heads) * width();
  }
  bool sees(size_t i, size_t j) const {
    return j <= i && (shape.window == 0 || i - j < static_cast<size_t>(shape.window));
  }
};

// The softmax weights of query i over all keys; a key out of sight weighs nothing.
template <class S>
std::vector<S> attention_weights(const AttentionOf<S>& in, size_t i, size_t head) {
  std::vector<S> seen;
  for (size_t j = 0; j < in.rows(); ++j) {
    S dot = 0;
    for (size_t c = 0; c < in.width(); ++c) dot += in.q[in.query(i, head) + c] * in.k[in.key(j, head) + c];
    if (in.sees(i, j)) seen.push_back(dot / std::sqrt(static_cast<double>(in.width())));
  }
  const S log_sum = log_sum_exp(seen);
  std::vector<S> weights;
  size_t next = 0;
  for (size_t j = 0; j < in.rows(); ++j) weights.push_back(in.sees(i, j) ? std::exp(seen[next++] - log_sum) : S(0));
  return weights;
}

template <class S>
std::vector<S> attention(const AttentionOf<S>& in) {
  std::vector<S> out(in.q.size());
  for (size_t i = 0; i < in.rows(); ++i)
    for (size_t h = 0; h < static_cast<size_t>(in.shape.heads); ++h) {
      const std::vector<S> weights = attention_weights(in, i, h);
      for (size_t j = 0; j <= i; ++j)
        for (size_t c = 0; c < in.width(); ++c) out[in.query(i, h) + c] += weights[j] * in.v[in.key(j, h) + c];
    }
  return out;
}

struct AttentionGradients {
  std::vector<double> dq, dk, dv;
};

// The backward of one query row of one head: p = softmax(s), ds_j = p_j (dp_j - sum_l p_l dp_l) with dp_j = dout.v_j.
inline void attention_row_backward(const std::vector<double>& dout, const AttentionOf<double>& in, size_t i, size_t h,
                                   AttentionGradients& g) {
  const std::vector<double> p = attention_weights(in, i, h);
  const size_t q = in.query(i, h);
  std::vector<double> dp(i + 1);
  double mean = 0;
  for (size_t j = 0; j <= i; ++j) {
    for (size_t c = 0; c < in.width(); ++c) dp[j] += dout[q + c] * in.v[in.key(j, h) + c];
    mean += p[j] * dp[j];
  }
  for (size_t j = 0; j <= i; ++j) {
    const double ds = p[j] * (dp[j] - mean) / std::sqrt(static_cast<double>(in.width()));
    const size_t key = in.key(j, h);
    for (size_t c = 0; c < in.width(); ++c) {
      g.dq[q + c] += ds * in.k[key + c];
      g.dk[key + c] += ds * in.q[q + c];
      g.dv[key + c] += p[j] * dout[q + c];
    }
  }
}

inline AttentionGradients attention_backward(const std::vector<double>& dout, const AttentionOf<double>& in) {
  AttentionGradients g{std::vector<double>(in.q.size()), std::vector<double>(in.k.size()),
                       std::vector<double>(in.v.size())};
  for (size_t i = 0; i < in.rows(); ++i)
    for (size_t h = 0; h < static_cast<size_t>(in.shape.heads); ++h) attention_row_backward(dout, in, i, h, g);
  return g;
}

}  // namespace choir::kernels::reference
