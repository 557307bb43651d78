#include "moe/weigh/chosen.h"

#include <algorithm>
#include <cmath>

#include "moe/weigh/slots.h"

namespace choir::moe {

// g_e = exp(z_e - max) / sum over the kept set c of exp(z_j - max).
void ChosenWeights::forward(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.scores(context.experts);
  std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    float most = -INFINITY, sum = 0;
    each_edge(routing, t, [&](int32_t, int32_t e) { most = std::max(most, z[t][e]); });
    each_edge(routing, t, [&](int32_t i, int32_t e) { sum += weight[i] = std::exp(z[t][e] - most); });
    each_edge(routing, t, [&](int32_t i, int32_t) { weight[i] /= sum; });
  });
}

// dz_e = g_e (dg_e - sum over c of g_j dg_j).
void ChosenWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                             Matrix<float> dz) const {
  const std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    float mean = 0;
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += weight[i] * dweight[i]; });
    each_edge(routing, t, [&](int32_t i, int32_t e) { dz[t][e] += weight[i] * (dweight[i] - mean); });
  });
}

}  // namespace choir::moe
