#include "moe/weigh/softmax.h"

#include <algorithm>
#include <cmath>

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

// The softmax over what a token proposed: e^(z - most) / sum, which no underflow of the softmax over all can spoil.
// Experts from `out` to `end` - 1 have no part in it.
struct Renormed {
  const float* z;
  int out, end;
  float most = -INFINITY, sum = 0;

  Renormed(const Context& context, const Routing& routing, int t, bool release)
      : z(routing.scores(context.experts)[t]),
        out(context.experts - context.idle),
        end(release ? out + context.zero : out) {
    const auto each = [&](const auto& body) { each_slot(routing.proposed, routing.plan.choices, t, body); };
    each([&](int, int32_t e) { most = is_out(e) ? most : std::max(most, z[e]); });
    each([&](int, int32_t e) { sum += is_out(e) ? 0 : std::exp(z[e] - most); });
  }
  bool is_out(int32_t e) const { return e >= out && e < end; }
  float operator[](int32_t e) const { return is_out(e) || sum == 0 ? 0 : std::exp(z[e] - most) / sum; }
};

}  // namespace

SoftmaxWeights SoftmaxWeights::read(Arguments& arguments) {
  SoftmaxWeights word;
  word.renorm = arguments.flag("renorm");
  word.release = arguments.flag("release");
  if (word.release && !word.renorm) arguments.refuse("release goes with renorm");
  word.scale = static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1));
  return word;
}

// g_e = scale p_e, with renorm scale q_e, q_e = p_e / sum over the proposals of p_j.
void SoftmaxWeights::forward(const Context& context, Routing& routing) const {
  std::vector<float>& weight = routing.plan.weight;
  if (release) routing.plan.input = static_cast<float>(routing.plan.choices);
  each_token(context, [&](int t) {
    if (renorm) {
      const Renormed q(context, routing, t, release);
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
      const Renormed q(context, routing, t, release);
      each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { dz[t][e] -= q[e] * mean; });
    } else {
      const float* p = routing.probabilities(context.experts)[t];
      for (int e = 0; e < context.experts; ++e) dz[t][e] -= p[e] * mean;
    }
  });
}

}  // namespace choir::moe
