#include "moe/balance/quantile.h"

#include <algorithm>
#include <functional>

namespace choir::moe {
namespace {

// The value at `rank` from the largest down.
float ranked(std::vector<float>& values, size_t rank) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::min(rank, values.size() - 1));
  std::ranges::nth_element(values, at, std::greater());
  return *at;
}

}  // namespace

Quantile Quantile::read(Arguments& arguments) {
  return {static_cast<float>(arguments.number("decay", 0, 0.999999, 0.9))};
}

void Quantile::shift(const Context& context, Matrix<float> key) const {
  if (context.state.empty()) return;
  for (int t = 0; t < key.rows; ++t)
    for (int e = 0; e < key.cols; ++e) key[t][e] -= context.state[static_cast<size_t>(e) + 1];
}

// routing.selection holds z - beta. With as many choices as experts nothing is left to balance.
void Quantile::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  const int experts = context.experts, rows = context.tokens.rows();
  const auto k = static_cast<size_t>(routing.plan.choices), tokens = static_cast<size_t>(context.tokens.counted());
  if (k >= static_cast<size_t>(experts) || tokens == 0) return;
  const Matrix<const float> key = routing.selection.matrix(rows, experts);
  std::vector<float> alpha, values;
  for (int t = 0; t < rows; ++t) {
    if (!context.tokens.counts(t)) continue;
    values.assign(key[t], key[t] + experts);
    alpha.push_back(ranked(values, k));
  }
  sums[0] += 1;
  for (int e = 0; e < experts; ++e) {
    const float beta = context.state[static_cast<size_t>(e) + 1];
    values.clear();
    for (int t = 0; t < rows; ++t)
      if (context.tokens.counts(t)) values.push_back(key[t][e] + beta - alpha[values.size()]);
    sums[static_cast<size_t>(e) + 1] += ranked(values, tokens * k / static_cast<size_t>(experts));
  }
}

void Quantile::update(std::span<const float> sums, std::span<float> state) const {
  if (sums[0] <= 0) return;
  double mean = 0;
  for (size_t e = 1; e < sums.size(); ++e) mean += static_cast<double>(sums[e]) / static_cast<double>(sums.size() - 1);
  const float keep = state[0] > 0 ? decay : 0;
  for (size_t e = 1; e < state.size(); ++e)
    state[e] = keep * state[e] + (1 - keep) * (sums[e] - static_cast<float>(mean)) / sums[0];
  state[0] = 1;
}

}  // namespace choir::moe
