#include "moe/balance/z_loss.h"

#include <algorithm>

namespace choir::moe {

ZLoss ZLoss::read(Arguments& arguments) { return {static_cast<float>(arguments.number("c", 0, 1000))}; }

double ZLoss::loss(const Context& context, const Routing& routing) const {
  double total = 0;
  for (int t = 0; t < context.tokens.rows(); ++t) {
    const auto log_sum = static_cast<double>(routing.log_sum[static_cast<size_t>(t)]);
    if (context.tokens.counts(t)) total += log_sum * log_sum;
  }
  return static_cast<double>(c) * total / std::max(1, context.tokens.counted());
}

// dz_te = 2 c / N log_sum_t p_te.
void ZLoss::backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const {
  const Matrix<const float> p = routing.probabilities(context.experts);
  const float scale = 2 * gradient.scale * c / static_cast<float>(std::max(1, context.tokens.counted()));
  for (int t = 0; t < context.tokens.rows(); ++t) {
    if (!context.tokens.counts(t)) continue;
    const float row = scale * routing.log_sum[static_cast<size_t>(t)];
    for (int e = 0; e < context.experts; ++e) gradient.dz[t][e] += row * p[t][e];
  }
}

}  // namespace choir::moe
