// One score word beside its reference: what tests of scores share.
#pragma once

#include <doctest/doctest.h>

#include "moe/reference/case.h"
#include "moe/reference/scores.h"

namespace choir::moe::reference {

// z, dx and the gradients of the tensors, for a given dz, all beginning at 0.
struct Scored {
  std::vector<float> z, dx, dprevious;
  std::vector<std::vector<float>> dtensor;
};

template <class Word>
Scored run_score(const Word& word, Case& c, const std::vector<double>& dz) {
  const std::vector<Weight> weights = c.weights();
  const Context context = c.context(weights);
  Scored out{
      std::vector<float>(context.pairs()), std::vector<float>(c.x.size()), std::vector<float>(context.pairs()), {}};
  const std::vector<float> d = narrow(dz);
  std::vector<Matrix<float>> gradients;
  for (const auto& t : c.tensor) out.dtensor.emplace_back(t.size());
  for (size_t i = 0; i < c.tensor.size(); ++i) gradients.push_back(matrix(out.dtensor[i], c.shape[i].second));
  word.forward(context, matrix(out.z, c.experts));
  c.set_scores(out.z);
  c.routing.plan.tokens = c.rows;
  word.backward(context, c.routing, matrix(d, c.experts),
                {matrix(out.dx, c.width), gradients, matrix(out.dprevious, c.experts)});
  return out;
}

inline std::vector<double> widen(const std::vector<float>& v) { return {v.begin(), v.end()}; }

// Largest difference beside `size`, for gradients that may vanish.
inline double beside(double size, const std::vector<double>& want, const std::vector<float>& got) {
  if (want.size() != got.size()) return HUGE_VAL;
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(want[i] - static_cast<double>(got[i])) / size;
    worst = std::isnan(d) ? HUGE_VAL : std::max(worst, d);
  }
  return worst;
}

}  // namespace choir::moe::reference
