#include "moe/weigh/sigmoid.h"

#include "moe/logistic.h"
#include "moe/weigh/slots.h"

namespace choir::moe {

// g_e = scale s(z_e).
void SigmoidWeights::forward(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.scores(context.experts);
  each_token(context, [&](int t) {
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = scale * logistic(z[t][e]); });
  });
}

// dz_e = dg_e g_e (1 - g_e / scale).
void SigmoidWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                              Matrix<float> dz) const {
  each_token(context, [&](int t) {
    each_edge(routing, t, [&](int32_t i, int32_t e) {
      const float g = routing.plan.weight[i];
      dz[t][e] += dweight[i] * g * (1 - g / scale);
    });
  });
}

}  // namespace choir::moe
