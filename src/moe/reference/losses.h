// Balance losses as straight loops. Logits z (N,E), proposals (N,K) with -1 for none. S is double, or
// std::complex<double> for the gradient test; each backward is written by hand in double and gives dz (N,E). A mask
// marks the tokens that are left out of every sum and every denominator with 1; an empty one leaves out nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <vector>

#include "moe/reference/scores.h"
#include "moe/reference/weights.h"

namespace choir::moe::reference {

using Mask = std::vector<uint8_t>;

// Those of [begin, end) that are not padding.
inline std::vector<size_t> real_tokens(const Mask& padded, size_t begin, size_t end) {
  std::vector<size_t> tokens;
  for (size_t t = begin; t < end; ++t)
    if (padded.empty() || !padded[t]) tokens.push_back(t);
  return tokens;
}

// f_e: the share of the proposals of these tokens that goes to e, so that sum f = 1; all 0 without proposals.
inline std::vector<double> shares_of(const std::vector<int32_t>& proposed, const std::vector<size_t>& tokens, size_t k,
                                     size_t experts) {
  std::vector<int32_t> theirs;
  for (const size_t t : tokens)
    for (const int32_t e : row_of(proposed, t, k)) theirs.push_back(e);
  return shares(theirs, experts);
}

struct Load {
  size_t experts = 0;
  double alpha = 1;
  std::vector<double> eta = {};      // (E), a weight for each expert (arXiv 2410.07348); empty: all 1
  std::vector<size_t> offsets = {};  // the first row of each sequence, and N; empty: one batch
  Mask padded = {};
  double factor(size_t e) const { return alpha * double(experts) * (eta.empty() ? 1 : eta[e]); }
};

// The tokens of each sequence that has any.
inline std::vector<std::vector<size_t>> scopes(const Load& load, size_t n) {
  const std::vector<size_t> offsets = load.offsets.empty() ? std::vector<size_t>{0, n} : load.offsets;
  std::vector<std::vector<size_t>> all;
  for (size_t i = 0; i + 1 < offsets.size(); ++i)
    if (auto tokens = real_tokens(load.padded, offsets[i], offsets[i + 1]); !tokens.empty()) all.push_back(tokens);
  return all;
}

// Mean over the sequences of alpha E sum_e eta_e f_e P_e, P_e the mean of p_te (arXiv 2101.03961, eq. 4-6;
// 2412.19437, eq. 17-20 for sequences).
template <class S>
S load(const std::vector<S>& z, const std::vector<int32_t>& proposed, const Load& spec) {
  const size_t n = z.size() / spec.experts;
  const auto all = scopes(spec, n);
  const std::vector<S> p = softmax_rows(z, spec.experts);
  S loss = 0;
  for (const auto& tokens : all) {
    const std::vector<double> f = shares_of(proposed, tokens, proposed.size() / n, spec.experts);
    for (size_t e = 0; e < spec.experts; ++e) {
      S mean = 0;
      for (const size_t t : tokens) mean += p[t * spec.experts + e] / double(tokens.size());
      loss += spec.factor(e) * f[e] * mean / double(all.size());
    }
  }
  return loss;
}

// dp_te = alpha E eta_e f_e / (tokens of the sequence, sequences), f constant.
inline std::vector<double> load_backward(const std::vector<double>& z, const std::vector<int32_t>& proposed,
                                         const Load& spec) {
  const size_t n = z.size() / spec.experts;
  std::vector<double> dp(z.size());
  const auto all = scopes(spec, n);
  for (const auto& tokens : all) {
    const std::vector<double> f = shares_of(proposed, tokens, proposed.size() / n, spec.experts);
    for (const size_t t : tokens)
      for (size_t e = 0; e < spec.experts; ++e)
        dp[t * spec.experts + e] = spec.factor(e) * f[e] / double(tokens.size() * all.size());
  }
  return softmax_rows_backward(dp, softmax_rows(z, spec.experts), spec.experts);
}

// c mean_t (ln sum_e e^z_te)^2 (arXiv 2202.08906, eq. 5)
template <class S>
S z_loss(const std::vector<S>& z, size_t experts, double c, const Mask& padded = {}) {
  const auto tokens = real_tokens(padded, 0, z.size() / experts);
  S loss = 0;
  for (const size_t t : tokens) {
    const S l = logsumexp(row_of(z, t, experts));
    loss += c * l * l / double(tokens.size());
  }
  return loss;
}

// dz_te = 2 c / N l_t p_te
inline std::vector<double> z_loss_backward(const std::vector<double>& z, size_t experts, double c,
                                           const Mask& padded = {}) {
  const auto tokens = real_tokens(padded, 0, z.size() / experts);
  std::vector<double> p = softmax_rows(z, experts), dz(z.size());
  for (const size_t t : tokens)
    for (size_t i = t * experts; i < (t + 1) * experts; ++i)
      dz[i] = 2 * c / double(tokens.size()) * logsumexp(row_of(z, t, experts)) * p[i];
  return dz;
}

// I_e = sum_t g_te, g (N,E) with 0 where an expert was not chosen.
template <class S>
std::vector<S> importance(const std::vector<S>& g, size_t experts, const Mask& padded = {}) {
  std::vector<S> sums(experts, S(0));
  for (const size_t t : real_tokens(padded, 0, g.size() / experts))
    for (size_t e = 0; e < experts; ++e) sums[e] += g[t * experts + e];
  return sums;
}

// c Var_e(I) / Mean_e(I)^2 with the population variance (arXiv 1701.06538, eq. 6-7); 0 without gates.
template <class S>
S cv2(const std::vector<S>& g, size_t experts, double c, const Mask& padded = {}) {
  const std::vector<S> sums = importance(g, experts, padded);
  const S mean = std::accumulate(sums.begin(), sums.end(), S(0)) / double(experts);
  if (real_part(mean * mean) <= 0) return 0;
  S variance = 0;
  for (const S& i : sums) variance += (i - mean) * (i - mean) / double(experts);
  return c * variance / (mean * mean);
}

// For a token that counts: dg_te = 2 c / (E m^2) (I_e - m - Var / m), m the mean of I.
inline std::vector<double> cv2_backward(const std::vector<double>& g, size_t experts, double c,
                                        const Mask& padded = {}) {
  const std::vector<double> sums = importance(g, experts, padded);
  const double m = std::accumulate(sums.begin(), sums.end(), 0.0) / double(experts);
  const double variance = cv2(g, experts, 1.0, padded) * m * m;
  std::vector<double> dg(g.size());
  if (!(m * m > 0)) return dg;
  for (const size_t t : real_tokens(padded, 0, g.size() / experts))
    for (size_t e = 0; e < experts; ++e)
      dg[t * experts + e] = 2 * c / (double(experts) * m * m) * (sums[e] - m - variance / m);
  return dg;
}

// The normal distribution by its series 1/2 + phi(u) (u + u^3 / 3 + u^5 / (3 5) + ...), whose terms have one sign.
template <class S>
S normal_cdf(const S& u) {
  if (std::abs(real_part(u)) > 12) return real_part(u) > 0 ? 1 : 0;
  S term = u, sum = u;
  for (int i = 3; i < 400; i += 2) sum += term *= u * u / double(i);
  return 0.5 + std::exp(-u * u / 2.0) * sum / std::sqrt(2 * std::numbers::pi);
}

template <class S>
struct NoisyScores {
  std::vector<S> clean, noisy, deviation;  // (N,E)
};

// P_te = Phi((clean_te - the k-th largest noisy score of the other experts) / deviation_te); 1 where there are fewer
// than k others (arXiv 1701.06538, eq. 9).
template <class S>
std::vector<S> top_k_chances(const NoisyScores<S>& scores, size_t experts, size_t k) {
  std::vector<S> chances;
  for (size_t i = 0; i < scores.clean.size(); ++i) {
    std::vector<S> others = row_of(scores.noisy, i / experts, experts);
    others.erase(others.begin() + std::ptrdiff_t(i % experts));
    std::sort(others.begin(), others.end(), [](const S& a, const S& b) { return real_part(a) > real_part(b); });
    chances.push_back(others.size() < k ? S(1) : normal_cdf((scores.clean[i] - others[k - 1]) / scores.deviation[i]));
  }
  return chances;
}

struct Locality {
  size_t experts = 0, nodes = 0;
  std::vector<size_t> node_of_token, node_of_expert;
  double eps = 0.01, mu = 1;
  Mask padded = {};
};

// J (nodes,E): the mean over tokens of p_te, split by the node of the token.
template <class S>
std::vector<S> joint(const std::vector<S>& p, const Locality& l) {
  std::vector<S> j(l.nodes * l.experts, S(0));
  const auto tokens = real_tokens(l.padded, 0, p.size() / l.experts);
  for (const size_t t : tokens)
    for (size_t e = 0; e < l.experts; ++e)
      j[l.node_of_token[t] * l.experts + e] += p[t * l.experts + e] / double(tokens.size());
  return j;
}

// The same of hard counts: each proposal of a token counts 1 / its proposals, if every token proposes as many.
inline std::vector<double> hard_joint(const std::vector<int32_t>& proposed, const Locality& l) {
  const size_t k = proposed.size() / l.node_of_token.size();
  std::vector<double> p(l.node_of_token.size() * l.experts);
  for (size_t i = 0; i < proposed.size(); ++i)
    if (proposed[i] >= 0) p[i / k * l.experts + size_t(proposed[i])] += 1 / double(k);
  return joint(p, l);
}

// J*(a,e) = N_a/N ((1 - eps) 1{e on a} / |E_a| + eps / E), arXiv 2401.13920 smoothed; without experts: N_a/N 1/E.
inline std::vector<double> local_target(const Locality& l) {
  std::vector<double> target(l.nodes * l.experts);
  const auto tokens = real_tokens(l.padded, 0, l.node_of_token.size());
  for (size_t a = 0; a < l.nodes; ++a) {
    double mine = 0, here = 0;
    for (const size_t t : tokens) mine += l.node_of_token[t] == a;
    for (const size_t node : l.node_of_expert) here += node == a;
    for (size_t e = 0; e < l.experts; ++e) {
      const double on = l.node_of_expert[e] == a ? 1 / here : 0, even = 1 / double(l.experts);
      const double wish = here > 0 ? (1 - l.eps) * on + l.eps * even : even;
      target[a * l.experts + e] = mine / double(tokens.size()) * wish;
    }
  }
  return target;
}

// sum J ln(J / J*), 0 ln 0 = 0
template <class S>
S divergence(const std::vector<S>& j, const std::vector<double>& target) {
  S sum = 0;
  for (size_t i = 0; i < j.size(); ++i)
    if (real_part(j[i]) > 0) sum += j[i] * std::log(j[i] / target[i]);
  return sum;
}

// mu KL(J || J*)
template <class S>
S locality(const std::vector<S>& z, const Locality& l) {
  return l.mu * divergence(joint(softmax_rows(z, l.experts), l), local_target(l));
}

// dp_te = mu / N (ln(J / J*) + 1) at the token's node.
inline std::vector<double> locality_backward(const std::vector<double>& z, const Locality& l) {
  const std::vector<double> p = softmax_rows(z, l.experts), j = joint(p, l), target = local_target(l);
  const auto tokens = real_tokens(l.padded, 0, z.size() / l.experts);
  std::vector<double> dp(z.size());
  for (const size_t t : tokens)
    for (size_t e = 0; e < l.experts; ++e) {
      const size_t at = l.node_of_token[t] * l.experts + e;
      if (j[at] > 0) dp[t * l.experts + e] = l.mu * (std::log(j[at] / target[at]) + 1) / double(tokens.size());
    }
  return softmax_rows_backward(dp, p, l.experts);
}

// c mean_t H(p_t), H = -sum p ln p, with ln p = z - logsumexp.
template <class S>
S entropy(const std::vector<S>& z, size_t experts, double c, const Mask& padded = {}) {
  const auto tokens = real_tokens(padded, 0, z.size() / experts);
  S loss = 0;
  for (const size_t t : tokens) {
    const std::vector<S> row = row_of(z, t, experts), p = softmax(row);
    for (size_t e = 0; e < experts; ++e) loss -= c * p[e] * (row[e] - logsumexp(row)) / double(tokens.size());
  }
  return loss;
}

// dp_te = -c / N (ln p_te + 1)
inline std::vector<double> entropy_backward(const std::vector<double>& z, size_t experts, double c,
                                            const Mask& padded = {}) {
  const auto tokens = real_tokens(padded, 0, z.size() / experts);
  std::vector<double> dp(z.size());
  for (const size_t t : tokens)
    for (size_t e = 0; e < experts; ++e)
      dp[t * experts + e] = -c / double(tokens.size()) * (z[t * experts + e] - logsumexp(row_of(z, t, experts)) + 1);
  return softmax_rows_backward(dp, softmax_rows(z, experts), experts);
}

// lambda E sum_e f_e mean_t relu(z_te), f constant (arXiv 2412.14711).
template <class S>
S l1(const std::vector<S>& z, const std::vector<int32_t>& proposed, size_t experts, double lambda,
     const Mask& padded = {}) {
  const size_t n = z.size() / experts;
  const auto tokens = real_tokens(padded, 0, n);
  const std::vector<double> f = shares_of(proposed, tokens, proposed.size() / n, experts);
  S loss = 0;
  for (const size_t t : tokens)
    for (size_t e = 0; e < experts; ++e)
      if (const S& v = z[t * experts + e]; real_part(v) > 0)
        loss += lambda * double(experts) * f[e] * v / double(tokens.size());
  return loss;
}

inline std::vector<double> l1_backward(const std::vector<double>& z, const std::vector<int32_t>& proposed,
                                       size_t experts, double lambda, const Mask& padded = {}) {
  const size_t n = z.size() / experts;
  const auto tokens = real_tokens(padded, 0, n);
  const std::vector<double> f = shares_of(proposed, tokens, proposed.size() / n, experts);
  std::vector<double> dz(z.size());
  for (const size_t t : tokens)
    for (size_t e = 0; e < experts; ++e)
      if (z[t * experts + e] > 0) dz[t * experts + e] = lambda * double(experts) * f[e] / double(tokens.size());
  return dz;
}

// c |V V^T - I|^2 over all pairs, V the unit rows of w (E,D).
template <class S>
S ortho(const std::vector<S>& w, size_t width, double c) {
  S loss = 0;
  for (size_t i = 0; i < w.size() / width; ++i)
    for (size_t j = 0; j < w.size() / width; ++j) {
      const S off = dot(unit(row_of(w, i, width)), unit(row_of(w, j, width))) - double(i == j);
      loss += c * off * off;
    }
  return loss;
}

// dV = 4 c (V V^T - I) V, then each row's length.
inline std::vector<double> ortho_backward(const std::vector<double>& w, size_t width, double c) {
  std::vector<double> dw;
  for (size_t a = 0; a < w.size() / width; ++a) {
    std::vector<double> dv(width), va = unit(row_of(w, a, width));
    for (size_t b = 0; b < w.size() / width; ++b) {
      const std::vector<double> vb = unit(row_of(w, b, width));
      for (size_t j = 0; j < width; ++j) dv[j] += 4 * c * (dot(va, vb) - double(a == b)) * vb[j];
    }
    for (const double d : unit_backward(dv, row_of(w, a, width))) dw.push_back(d);
  }
  return dw;
}

}  // namespace choir::moe::reference
