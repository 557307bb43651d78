#include "moe/weigh/identity.h"

#include "moe/weigh/slots.h"

namespace choir::moe {

// g_e = z_e.
void IdentityWeights::forward(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.scores(context.experts);
  each_token(context,
             [&](int t) { each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = z[t][e]; }); });
}

// dz_e = dg_e on kept edges.
void IdentityWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                               Matrix<float> dz) const {
  each_token(context, [&](int t) { each_edge(routing, t, [&](int32_t i, int32_t e) { dz[t][e] += dweight[i]; }); });
}

}  // namespace choir::moe
