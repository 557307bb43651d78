#include "moe/weigh/softmax.h"

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

float proposed_mass(const Routing& routing, int experts, int t) {
  const float* p = routing.probabilities(experts)[t];
  float mass = 0;
  each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { mass += p[e]; });
  return mass;
}

}  // namespace

SoftmaxWeights SoftmaxWeights::read(Arguments& arguments) {
  SoftmaxWeights word;
  word.renorm = arguments.flag("renorm");
  word.scale = static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1));
  return word;
}

// g_e = scale p_e, with renorm scale p_e / sum over the proposals of p_j.
void SoftmaxWeights::forward(const Context& context, Routing& routing) const {
  const Matrix<const float> p = routing.probabilities(context.experts);
  each_token(context, [&](int t) {
    const float factor = renorm ? scale / proposed_mass(routing, context.experts, t) : scale;
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = factor * p[t][e]; });
  });
}

// Plain: dz_e = p_e (scale dg_e - sum_j p_j scale dg_j) for all E experts, dg 0 where nothing was kept.
// With renorm, q_e = p_e / mass over the proposals: dz_e = q_e (scale dg_e - sum_j q_j scale dg_j) over these.
void SoftmaxWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                              Matrix<float> dz) const {
  const Matrix<const float> p = routing.probabilities(context.experts);
  const std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    float mean = 0;  // of dg under the weights, both with the scale
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += weight[i] * dweight[i]; });
    each_edge(routing, t, [&](int32_t i, int32_t e) { dz[t][e] += weight[i] * dweight[i]; });
    if (renorm) {
      const float mass = proposed_mass(routing, context.experts, t);
      each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { dz[t][e] -= p[t][e] / mass * mean; });
    } else {
      for (int e = 0; e < context.experts; ++e) dz[t][e] -= p[t][e] * mean;
    }
  });
}

}  // namespace choir::moe
