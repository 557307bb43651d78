#include "moe/balance/bias.h"

#include <numeric>

namespace choir::moe {

BiasBalance BiasBalance::read(Arguments& arguments) {
  return {static_cast<float>(arguments.number("gamma", 0, 1000, 0.001))};
}

void BiasBalance::shift(const Context& context, Matrix<float> key) const { shift_rows(context, context.state, 1, key); }

void BiasBalance::observe(const Context&, const Routing& routing, std::span<float> sums) const {
  for (const int32_t e : routing.proposed)
    if (e >= 0) sums[static_cast<size_t>(e)] += 1;
}

// b_e += gamma sign(mean - count_e).
void BiasBalance::update(std::span<const float> sums, std::span<float> state) const {
  const float mean = std::accumulate(sums.begin(), sums.end(), 0.0f) / static_cast<float>(sums.size());
  for (size_t e = 0; e < state.size(); ++e) state[e] += sums[e] < mean ? gamma : sums[e] > mean ? -gamma : 0;
}

}  // namespace choir::moe
