// Chances of routing one marked token, by exact sums and by quadrature, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

namespace choir::moe::reference {

// P(Bin(n, p) <= most)
inline double binomial_at_most(int most, int n, double p) {
  if (most >= n || p <= 0) return most >= 0 ? 1 : 0;
  if (p >= 1) return 0;
  double sum = 0;
  for (int k = 0; k <= most; ++k)
    sum += std::exp(std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) + k * std::log(p) +
                    (n - k) * std::log1p(-p));
  return std::min(sum, 1.0);
}

// The marked token is one of s, at a place equally likely anywhere; it prefers its expert with chance p, the others go
// anywhere. First come, first served: (p/s) sum_{k=1..s} P(Bin(k-1, 1/E) <= C-1) (arXiv 2406.00023, theorem 5).
inline double token_choice_success(double p, int s, int experts, int capacity) {
  double sum = 0;
  for (int k = 1; k <= s; ++k) sum += binomial_at_most(capacity - 1, k - 1, 1.0 / experts);
  return p * sum / s;
}

// The expert takes its C best of all tokens, q the chance that another one outscores the marked one:
// P(Bin(s-1, q) <= C-1) (arXiv 2406.00023, theorem 5).
inline double expert_choice_success(int s, double q, int capacity) { return binomial_at_most(capacity - 1, s - 1, q); }

// Token's choice, then the expert's among its candidates, r the chance that another token goes to the expert and
// outscores the marked one, at most min(q, 1/E).
inline double hybrid_success(double p, int s, double r, int capacity) {
  return p * binomial_at_most(capacity - 1, s - 1, r);
}

// Simpson's rule with 2 `halves` steps.
template <class F>
double integral(const F& f, double from, double to, int halves) {
  const double h = (to - from) / (2 * halves);
  double sum = f(from) + f(to);
  for (int i = 1; i < 2 * halves; ++i) sum += (i % 2 ? 4 : 2) * f(from + i * h);
  return sum * h / 3;
}

// The hybrid when no token is marked by its score: r is uniform on (0, 1/E).
inline double hybrid_success_mean(double p, int s, int experts, int capacity) {
  const double end = 1.0 / experts;
  return integral([&](double r) { return hybrid_success(p, s, r, capacity); }, 0, end, 200) / end;
}

inline double normal_density(double v) { return std::exp(-v * v / 2) / std::sqrt(2 * std::numbers::pi); }
inline double normal_below(double v) { return std::erfc(-v / std::numbers::sqrt2) / 2; }

// M, the largest of E normals, has the density E phi Phi^(E-1); E[M; M >= u].
inline double tail_of_largest(double u, int experts) {
  return integral([&](double m) { return m * experts * normal_density(m) * std::pow(normal_below(m), experts - 1); }, u,
                  12, 2000);
}

// P(M >= u) with E[M; M >= u] = tau E[max(M, 0)]: the share of its tokens that an expert keeps at independent normal
// scores when its capacity keeps the share tau of the affinity.
inline double kept_share(double tau, int experts) {
  double low = 0, high = 12;
  const double wanted = tau * tail_of_largest(0, experts);
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (tail_of_largest(middle, experts) > wanted ? low : high) = middle;
  }
  return 1 - std::pow(normal_below(low), experts);
}

// The share tau of the affinity that a share `kept` of the tokens holds: the inverse.
inline double kept_mass(double kept, int experts) {
  double low = 0, high = 12;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (1 - std::pow(normal_below(middle), experts) > kept ? low : high) = middle;
  }
  return tail_of_largest(low, experts) / tail_of_largest(0, experts);
}

// The share of tokens that go to an expert whose normal score is shifted by h.
inline double outlier_share(double h, int experts) {
  return integral([&](double v) { return normal_density(v) * std::pow(normal_below(v + h), experts - 1); }, -12, 12,
                  2000);
}

// p_delta = 1 - I_{delta^2}(1/2, (D-1)/2) = P(|cos| >= delta) for a uniform direction: the ratio of the integrals of
// (1 - u^2)^((D-3)/2) over [delta, 1] and [0, 1] (arXiv 2401.13920, lemma 3). Beyond 40 / sqrt(D) nothing is left.
inline double angle_chance(double delta, double width) {
  const double end = std::min(1.0, 40 / std::sqrt(width));
  const auto density = [&](double u) { return std::pow(std::max(0.0, 1 - u * u), (width - 3) / 2); };
  return integral(density, delta, end, 20000) / integral(density, 0, end, 20000);
}

}  // namespace choir::moe::reference
