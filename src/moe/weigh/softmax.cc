#include "moe/weigh/softmax.h"

#include <algorithm>
#include <cmath>

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

// The softmax over what a token proposed: e^(z - most) / sum, which no underflow of the softmax over all can spoil.
struct Renormed {
  const float* z;
  float most = -INFINITY, sum = 0;

  Renormed(const Routing& routing, int experts, int t) : z(routing.scores(experts)[t]) {
    const auto each = [&](const auto& body) { each_slot(routing.proposed, routing.plan.choices, t, body); };
    each([&](int, int32_t e) { most = std::max(most, z[e]); });
    each([&](int, int32_t e) { sum += std::exp(z[e] - most); });
  }
  float operator[](int32_t e) const { return std::exp(z[e] - most) / sum; }
};

}  // namespace

SoftmaxWeights SoftmaxWeights::read(Arguments& arguments) {
  SoftmaxWeights word;
  word.renorm = arguments.flag("renorm");
  word.scale = static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1));
  return word;
}

// g_e = scale p_e, with renorm scale q_e, q_e = p_e / sum over the proposals of p_j.
void SoftmaxWeights::forward(const Context& context, Routing& routing) const {
  std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    if (renorm) {
      const Renormed q(routing, context.experts, t);
      each_edge(routing, t, [&](int32_t i, int32_t e) { weight[i] = scale * q[e]; });
    } else {
      const float* p = routing.probabilities(context.experts)[t];
      each_edge(routing, t, [&](int32_t i, int32_t e) { weight[i] = scale * p[e]; });
    }
  });
}

// Plain: dz_e = p_e (scale dg_e - sum_j p_j scale dg_j) for all E experts, dg 0 where nothing was kept.
// With renorm dz_e = q_e (scale dg_e - sum_j q_j scale dg_j) over the proposals.
void SoftmaxWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                              Matrix<float> dz) const {
  const std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    float mean = 0;  // of dg under the weights, both with the scale
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += weight[i] * dweight[i]; });
    each_edge(routing, t, [&](int32_t i, int32_t e) { dz[t][e] += weight[i] * dweight[i]; });
    if (renorm) {
      const Renormed q(routing, context.experts, t);
      each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { dz[t][e] -= q[e] * mean; });
    } else {
      const float* p = routing.probabilities(context.experts)[t];
      for (int e = 0; e < context.experts; ++e) dz[t][e] -= p[e] * mean;
    }
  });
}

}  // namespace choir::moe
