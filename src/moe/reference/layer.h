// A mixture-of-experts layer as straight loops; S is double, or std::complex<double> for the gradient test. Choices are
// made once, from real numbers, and handed in: the step cannot change them.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

namespace choir::moe::reference {

inline double real_part(double v) { return v; }
inline double real_part(const std::complex<double>& v) { return v.real(); }

// Row-major, y (N,R) = x (N,C) w^T with w (R,C).
template <class S>
std::vector<S> linear(const std::vector<S>& x, const std::vector<S>& w, size_t cols) {
  const size_t n = x.size() / cols, rows = w.size() / cols;
  std::vector<S> y(n * rows, S(0));
  for (size_t t = 0; t < n; ++t)
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < cols; ++c) y[t * rows + r] += x[t * cols + c] * w[r * cols + c];
  return y;
}

template <class S>
std::vector<S> softmax(const std::vector<S>& z) {
  double most = -HUGE_VAL;
  for (const S& v : z) most = std::max(most, real_part(v));
  std::vector<S> p;
  S sum = 0;
  for (const S& v : z) sum += p.emplace_back(std::exp(v - most));
  for (S& v : p) v /= sum;
  return p;
}

template <class S>
std::vector<S> row_of(const std::vector<S>& m, size_t t, size_t cols) {
  return {m.begin() + static_cast<std::ptrdiff_t>(t * cols), m.begin() + static_cast<std::ptrdiff_t>((t + 1) * cols)};
}

// The weight of each kept choice (N,K): its probability divided by the sum over the token's kept ones; 0 where -1.
template <class S>
std::vector<S> chosen_weights(const std::vector<S>& z, const std::vector<int32_t>& chosen, size_t experts, size_t k) {
  std::vector<S> g(chosen.size(), S(0));
  for (size_t t = 0; t * k < chosen.size(); ++t) {
    const std::vector<S> p = softmax(row_of(z, t, experts));
    S sum = 0;
    for (size_t s = 0; s < k; ++s)
      if (chosen[t * k + s] >= 0) sum += p[static_cast<size_t>(chosen[t * k + s])];
    for (size_t s = 0; s < k; ++s)
      if (chosen[t * k + s] >= 0) g[t * k + s] = p[static_cast<size_t>(chosen[t * k + s])] / sum;
  }
  return g;
}

// dz_e = g_e (dg_e - sum_j g_j dg_j) over the kept experts of a token.
inline std::vector<double> chosen_weights_backward(const std::vector<double>& dg, const std::vector<double>& g,
                                                   const std::vector<int32_t>& chosen, size_t experts, size_t k) {
  std::vector<double> dz(chosen.size() / k * experts);
  for (size_t t = 0; t * k < chosen.size(); ++t) {
    double mean = 0;
    for (size_t s = 0; s < k; ++s) mean += g[t * k + s] * dg[t * k + s];
    for (size_t s = 0; s < k; ++s)
      if (const int32_t e = chosen[t * k + s]; e >= 0)
        dz[t * experts + static_cast<size_t>(e)] = g[t * k + s] * (dg[t * k + s] - mean);
  }
  return dz;
}

// The share of the proposals that each expert got.
inline std::vector<double> shares(const std::vector<int32_t>& proposed, size_t experts) {
  std::vector<double> f(experts);
  double total = 0;
  for (const int32_t e : proposed) total += e >= 0;
  for (const int32_t e : proposed)
    if (e >= 0) f[static_cast<size_t>(e)] += 1 / total;
  return f;
}

// alpha E sum_e f_e P_e (arXiv 2101.03961, eq. 4), P the mean probability.
template <class S>
S load_loss(const std::vector<S>& z, const std::vector<int32_t>& proposed, size_t experts, double alpha) {
  const std::vector<double> f = shares(proposed, experts);
  const size_t n = z.size() / experts;
  S loss = 0;
  for (size_t t = 0; t < n; ++t) {
    const std::vector<S> p = softmax(row_of(z, t, experts));
    for (size_t e = 0; e < experts; ++e) loss += alpha * static_cast<double>(experts) * f[e] * p[e] / double(n);
  }
  return loss;
}

// dz_te = alpha E / N p_te (f_e - sum_j f_j p_tj).
inline std::vector<double> load_loss_backward(const std::vector<double>& z, const std::vector<int32_t>& proposed,
                                              size_t experts, double alpha) {
  const std::vector<double> f = shares(proposed, experts);
  const size_t n = z.size() / experts;
  std::vector<double> dz;
  for (size_t t = 0; t < n; ++t) {
    const std::vector<double> p = softmax(row_of(z, t, experts));
    double mean = 0;
    for (size_t e = 0; e < experts; ++e) mean += f[e] * p[e];
    for (size_t e = 0; e < experts; ++e)
      dz.push_back(alpha * static_cast<double>(experts) / static_cast<double>(n) * p[e] * (f[e] - mean));
  }
  return dz;
}

// w1 and w3 (F_e,D), w2 (D,F_e); b1 and b3 (F_e), b2 (D), or empty.
template <class S>
struct Expert {
  std::vector<S> w1, w2, w3;
  std::vector<S> b1{}, b2{}, b3{};
};

// For every row of y, where there is a bias.
template <class S>
void add_bias(const std::vector<S>& bias, std::vector<S>& y) {
  for (size_t i = 0; !bias.empty() && i < y.size(); ++i) y[i] += bias[i % bias.size()];
}

// limit 0: silu(gate) up. Else that of gpt-oss.
template <class S>
S gated(S gate, S up, double limit, double alpha) {
  if (limit == 0) return gate * up / (1.0 + std::exp(-gate));
  if (real_part(gate) > limit) gate = limit;
  if (std::abs(real_part(up)) > limit) up = real_part(up) > 0 ? limit : -limit;
  return (up + 1.0) * gate / (1.0 + std::exp(-alpha * gate));
}

template <class S>
std::vector<S> expert_output(const Expert<S>& expert, const std::vector<S>& x, double limit = 0, double alpha = 0) {
  std::vector<S> gate = linear(x, expert.w1, x.size()), up = linear(x, expert.w3, x.size());
  add_bias(expert.b1, gate);
  add_bias(expert.b3, up);
  for (size_t f = 0; f < gate.size(); ++f) gate[f] = gated(gate[f], up[f], limit, alpha);
  std::vector<S> y = linear(gate, expert.w2, gate.size());
  add_bias(expert.b2, y);
  return y;
}

template <class S>
struct Layer {
  size_t width = 0;     // D
  std::vector<S> gate;  // (E,D)
  std::vector<Expert<S>> experts;
  std::vector<S> gate_bias{};    // (E), or empty
  Expert<S> shared{};            // without w1: none
  std::vector<S> shared_gate{};  // (D), or empty
  double limit = 0, alpha = 0;
};

template <class S>
std::vector<S> logits(const Layer<S>& layer, const std::vector<S>& x) {
  std::vector<S> z = linear(x, layer.gate, layer.width);
  add_bias(layer.gate_bias, z);
  return z;
}

// y_t += E(x_t), or sigmoid(gate . x_t) E(x_t).
template <class S>
void add_shared(const Layer<S>& layer, const std::vector<S>& x, std::vector<S>& y) {
  for (size_t t = 0; !layer.shared.w1.empty() && t < x.size() / layer.width; ++t) {
    const std::vector<S> row = row_of(x, t, layer.width);
    const std::vector<S> out = expert_output(layer.shared, row, layer.limit, layer.alpha);
    S share = 1;
    if (!layer.shared_gate.empty()) share = 1.0 / (1.0 + std::exp(-linear(row, layer.shared_gate, layer.width)[0]));
    for (size_t c = 0; c < layer.width; ++c) y[t * layer.width + c] += share * out[c];
  }
}

// y_t = sum over the kept experts of g_te E_e(x_t), and the shared expert's; x and y (N,D).
template <class S>
std::vector<S> forward(const Layer<S>& layer, const std::vector<S>& x, const std::vector<int32_t>& chosen, size_t k) {
  const std::vector<S> z = logits(layer, x);
  const std::vector<S> g = chosen_weights(z, chosen, layer.experts.size(), k);
  std::vector<S> y(x.size(), S(0));
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] < 0) continue;
    const std::vector<S> out = expert_output(layer.experts[static_cast<size_t>(chosen[i])],
                                             row_of(x, i / k, layer.width), layer.limit, layer.alpha);
    for (size_t c = 0; c < layer.width; ++c) y[i / k * layer.width + c] += g[i] * out[c];
  }
  add_shared(layer, x, y);
  return y;
}

}  // namespace choir::moe::reference
