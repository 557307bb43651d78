// One weigh word beside its reference: what tests of weights share.
#pragma once

#include <doctest/doctest.h>

#include <complex>

#include "moe/reference/case.h"
#include "moe/reference/weights.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe::reference {

inline constexpr size_t kWeighTokens = 12, kWeighExperts = 6, kWeighChoices = 3;

// Every proposal kept, some dropped, some of the dropped sent to an expert that the token had not proposed.
enum class Kind { kAll, kDropped, kRerouted };
inline constexpr Kind kKinds[] = {Kind::kAll, Kind::kDropped, Kind::kRerouted};

inline Choices choices_of(Kind kind) {
  const int n = int(kWeighTokens), k = int(kWeighChoices), experts = int(kWeighExperts);
  Choices c{random_choices(n, k, experts, 0, 3), {}, kWeighExperts, kWeighChoices};
  if (kind != Kind::kAll) c.proposed[5] = -1;  // a token that proposes fewer
  c.chosen = c.proposed;
  base::Rng rng(4);
  for (size_t i = 0; kind != Kind::kAll && i < c.chosen.size(); ++i) {
    if (rng.uniform() > 0.4 || c.chosen[i] < 0) continue;
    c.chosen[i] = -1;
    if (kind == Kind::kDropped || rng.uniform() < 0.3) continue;
    const auto has = [&](const std::vector<int32_t>& list, int32_t e) {
      const auto row = row_of(list, i / c.k, c.k);
      return std::count(row.begin(), row.end(), e) > 0;
    };
    for (int32_t e = 0; e < experts && c.chosen[i] < 0; ++e)
      if (!has(c.proposed, e) && !has(c.chosen, e)) c.chosen[i] = e;
  }
  return c;
}

// The word's weights (N,K) at scores of the given scale, and its gradient for dg.
struct Weighed {
  Choices choices;
  std::vector<double> z, dg;
  std::vector<float> weights, dz;

  template <class Word>
  Weighed(const Word& word, double scale, Kind kind)
      : choices(choices_of(kind)),
        z(random(kWeighTokens * kWeighExperts, scale, 1)),
        dg(random(choices.chosen.size(), 1, 2)) {
    Case c(int(kWeighTokens), 1, int(kWeighExperts));
    c.set_scores(narrow(z));
    c.set_choices(choices.proposed, choices.chosen);
    word.forward(c.context(), c.routing);
    const Plan& plan = c.routing.plan;
    std::vector<float> dweight(plan.token.size());
    weights.resize(plan.edge.size());
    for (size_t i = 0; i < plan.edge.size(); ++i)
      if (const int32_t at = plan.edge[i]; at >= 0) {
        weights[i] = plan.weight[size_t(at)];
        dweight[size_t(at)] = float(dg[i]);
      }
    dz.assign(z.size(), 1);
    word.backward(c.context(), c.routing, dweight, matrix(dz, int(kWeighExperts)));
    for (float& d : dz) d -= 1;  // the backward adds to what is there
  }
};

// `weights(z, choices)` is a reference on any scalar; the gradient is its complex step.
template <class Word, class Weights>
void check_weights(const Word& word, Kind kind, const Weights& weights) {
  for (const double scale : {1e-3, 1.0, 5.0, 20.0}) {
    CAPTURE(scale);
    CAPTURE(int(kind));
    const Weighed got(word, scale, kind);
    CHECK(error(weights(got.z, got.choices), got.weights) < 1e-5);
    const auto derivative = complex_step(got.z, [&](const std::vector<std::complex<double>>& z) {
      const auto g = weights(z, got.choices);
      std::complex<double> loss = 0;
      for (size_t i = 0; i < g.size(); ++i) loss += got.dg[i] * g[i];
      return loss;
    });
    // Differences of numbers of the order of dg, which is 1, and of the weights.
    double size = 1;
    for (const float g : got.weights) size = std::max(size, std::abs(double(g)));
    for (size_t i = 0; i < derivative.size(); ++i) CHECK(std::abs(derivative[i] - double(got.dz[i])) < 2e-6 * size);
  }
}

}  // namespace choir::moe::reference
