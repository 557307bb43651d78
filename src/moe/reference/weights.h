// Gates as straight loops: g (N,K) from z (N,E) and two lists of experts (N,K), each with -1 for none: what a token
// proposed, and what of it was kept. A choice that was not kept has gate 0 and takes no gradient of its own.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "moe/reference/layer.h"
#include "moe/reference/scores.h"

namespace choir::moe::reference {

struct Choices {
  std::vector<int32_t> proposed, chosen;
  size_t experts = 0, k = 0;
  size_t tokens() const { return chosen.size() / k; }
};

// out (N,E): the numbers of the slots, at their experts; 0 elsewhere.
inline std::vector<double> at_experts(const std::vector<double>& slots, const Choices& c) {
  std::vector<double> out(c.tokens() * c.experts);
  for (size_t i = 0; i < slots.size(); ++i)
    if (c.chosen[i] >= 0) out[i / c.k * c.experts + size_t(c.chosen[i])] += slots[i];
  return out;
}

// g (N,K): the numbers (N,E) of the kept experts; 0 where -1.
template <class S>
std::vector<S> at_slots(const std::vector<S>& numbers, const Choices& c) {
  std::vector<S> g(c.chosen.size(), S(0));
  for (size_t i = 0; i < g.size(); ++i)
    if (c.chosen[i] >= 0) g[i] = numbers[i / c.k * c.experts + size_t(c.chosen[i])];
  return g;
}

inline bool is_proposed(const Choices& c, size_t t, size_t e) {
  for (size_t s = 0; s < c.k; ++s)
    if (c.proposed[t * c.k + s] == int32_t(e)) return true;
  return false;
}

template <class S>
std::vector<S> softmax_rows(const std::vector<S>& z, size_t experts) {
  std::vector<S> p;
  for (size_t t = 0; t < z.size() / experts; ++t)
    for (const S& v : softmax(row_of(z, t, experts))) p.push_back(v);
  return p;
}

// dz_e = p_e (dp_e - sum_j p_j dp_j) in each row.
inline std::vector<double> softmax_rows_backward(const std::vector<double>& dp, const std::vector<double>& p,
                                                 size_t experts) {
  std::vector<double> dz(p.size());
  for (size_t i = 0; i < p.size(); ++i) {
    const size_t row = i / experts * experts;
    double mean = 0;
    for (size_t j = row; j < row + experts; ++j) mean += p[j] * dp[j];
    dz[i] = p[i] * (dp[i] - mean);
  }
  return dz;
}

// g_te = p_te, softmax over all experts, not renormalised (arXiv 2401.13920, eq. 3; 2101.03961, eq. 1-2).
template <class S>
std::vector<S> softmax_weights(const std::vector<S>& z, const Choices& c) {
  return at_slots(softmax_rows(z, c.experts), c);
}

// All experts take part, chosen or not.
inline std::vector<double> softmax_weights_backward(const std::vector<double>& dg, const std::vector<double>& z,
                                                    const Choices& c) {
  return softmax_rows_backward(at_experts(dg, c), softmax_rows(z, c.experts), c.experts);
}

// (N,E): p_e / sum of p over the proposed, which is e^z_e / sum of e^z over the proposed; 0 for the others.
template <class S>
std::vector<S> proposed_shares(const std::vector<S>& z, const Choices& c) {
  std::vector<S> shares(z.size(), S(0));
  for (size_t t = 0; t < c.tokens(); ++t) {
    std::vector<size_t> at;
    std::vector<S> logits;
    for (size_t e = 0; e < c.experts; ++e)
      if (is_proposed(c, t, e)) at.push_back(t * c.experts + e), logits.push_back(z[at.back()]);
    const std::vector<S> p = softmax(logits);
    for (size_t i = 0; i < at.size(); ++i) shares[at[i]] = p[i];
  }
  return shares;
}

// Softmax renormalised over the proposed set: a dropped choice takes its share with it (arXiv 2401.04088, section 2.1).
template <class S>
std::vector<S> renormalised_weights(const std::vector<S>& z, const Choices& c) {
  return at_slots(proposed_shares(z, c), c);
}

// The softmax backward over the proposed set, with dg = 0 for what was dropped.
inline std::vector<double> renormalised_weights_backward(const std::vector<double>& dg, const std::vector<double>& z,
                                                         const Choices& c) {
  return softmax_rows_backward(at_experts(dg, c), proposed_shares(z, c), c.experts);
}

// g_te = sigmoid(z_te)
template <class S>
std::vector<S> sigmoid_weights(std::vector<S> z, const Choices& c) {
  for (S& v : z) v = sigmoid(v);
  return at_slots(z, c);
}

// dz = dg s (1 - s), with 1 - s = sigmoid(-z).
inline std::vector<double> sigmoid_weights_backward(const std::vector<double>& dg, const std::vector<double>& z,
                                                    const Choices& c) {
  std::vector<double> dz = at_experts(dg, c);
  for (size_t i = 0; i < z.size(); ++i) dz[i] *= sigmoid(z[i]) * sigmoid(-z[i]);
  return dz;
}

inline constexpr double kTinySum = 1e-20;

// Sum of s_te over the proposed, plus 1e-20.
template <class S>
S proposed_sum(const std::vector<S>& s, const Choices& c, size_t t) {
  S sum = kTinySum;
  for (size_t e = 0; e < c.experts; ++e)
    if (is_proposed(c, t, e)) sum += s[t * c.experts + e];
  return sum;
}

// g_te = scale s_te / (sum of s over the proposed + 1e-20) (arXiv 2412.19437, eq. 13-15).
template <class S>
std::vector<S> norm_weights(const std::vector<S>& s, const Choices& c, double scale) {
  std::vector<S> g(s.size(), S(0));
  for (size_t t = 0; t < c.tokens(); ++t)
    for (size_t e = 0; e < c.experts; ++e) g[t * c.experts + e] = scale * s[t * c.experts + e] / proposed_sum(s, c, t);
  return at_slots(g, c);
}

// ds_e = (scale dg_e - sum_j g_j dg_j) / sum for the proposed.
inline std::vector<double> norm_weights_backward(const std::vector<double>& dg, const std::vector<double>& s,
                                                 const Choices& c, double scale) {
  const std::vector<double> g = norm_weights(s, c, scale), at = at_experts(dg, c);
  std::vector<double> ds(s.size());
  for (size_t t = 0; t < c.tokens(); ++t) {
    double pull = 0;
    for (size_t i = t * c.k; i < (t + 1) * c.k; ++i) pull += c.chosen[i] >= 0 ? g[i] * dg[i] : 0;
    for (size_t e = 0; e < c.experts; ++e) {
      const size_t i = t * c.experts + e;
      if (is_proposed(c, t, e)) ds[i] = (scale * at[i] - pull) / proposed_sum(s, c, t);
    }
  }
  return ds;
}

template <class S>
std::vector<S> sigmoid_norm_weights(std::vector<S> z, const Choices& c, double scale) {
  for (S& v : z) v = sigmoid(v);
  return norm_weights(z, c, scale);
}

// dz = ds s (1 - s)
inline std::vector<double> sigmoid_norm_weights_backward(const std::vector<double>& dg, const std::vector<double>& z,
                                                         const Choices& c, double scale) {
  std::vector<double> s;
  for (const double v : z) s.push_back(sigmoid(v));
  std::vector<double> dz = norm_weights_backward(dg, s, c, scale);
  for (size_t i = 0; i < z.size(); ++i) dz[i] *= s[i] * sigmoid(-z[i]);
  return dz;
}

// s = sqrt(ln(1 + e^z)) instead, the score of DeepSeek-V4.
template <class S>
std::vector<S> sqrt_softplus_norm_weights(std::vector<S> z, const Choices& c, double scale) {
  for (S& v : z) v = std::sqrt(softplus(v));
  return norm_weights(z, c, scale);
}

// dz = ds sigmoid(z) / (2 s)
inline std::vector<double> sqrt_softplus_norm_weights_backward(const std::vector<double>& dg,
                                                               const std::vector<double>& z, const Choices& c,
                                                               double scale) {
  std::vector<double> s;
  for (const double v : z) s.push_back(std::sqrt(softplus(v)));
  std::vector<double> dz = norm_weights_backward(dg, s, c, scale);
  for (size_t i = 0; i < z.size(); ++i) dz[i] *= sigmoid(z[i]) / (2 * s[i]);
  return dz;
}

// g_te = z_te
template <class S>
std::vector<S> identity_weights(const std::vector<S>& z, const Choices& c) {
  return at_slots(z, c);
}

inline std::vector<double> identity_weights_backward(const std::vector<double>& dg, const Choices& c) {
  return at_experts(dg, c);
}

// Phi's sparse mixer, the two rounds of one token: expert and weight of each. A round takes the largest z, m, of those
// that are left; j is out of its softmax where (m - z_j) / max(|z_j|, m) > 2 eps. What compares uses the real parts.
template <class S>
std::vector<std::pair<int32_t, S>> sparse_mixer(const std::vector<S>& z, double eps) {
  std::vector<bool> left(z.size(), true);
  std::vector<std::pair<int32_t, S>> rounds;
  for (int round = 0; round < 2; ++round) {
    size_t best = z.size();
    for (size_t j = 0; j < z.size(); ++j)
      if (left[j] && (best == z.size() || real_part(z[j]) > real_part(z[best]))) best = j;
    const double m = real_part(z[best]);
    S sum = 0;
    for (size_t j = 0; j < z.size(); ++j) {
      const double factor = std::max(std::abs(real_part(z[j])), m);
      if (left[j] && !((m - real_part(z[j])) / factor > 2 * eps)) sum += std::exp(z[j] - m);
    }
    rounds.emplace_back(int32_t(best), std::exp(z[best] - m) / sum);
    left[best] = false;
  }
  return rounds;
}

}  // namespace choir::moe::reference
