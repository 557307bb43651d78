#include "moe/weigh/sigmoid.h"

#include "moe/logistic.h"
#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

constexpr float kTiny = 1e-20f;  // of the published normaliser

float normaliser(const Routing& routing, Matrix<const float> z, int t) {
  float sum = kTiny;
  each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { sum += logistic(z[t][e]); });
  return sum;
}

}  // namespace

// g_e = s(z_e).
void SigmoidWeights::forward(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.scores(context.experts);
  each_token(context, [&](int t) {
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = logistic(z[t][e]); });
  });
}

// dz_e = dg_e g_e (1 - g_e).
void SigmoidWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                              Matrix<float> dz) const {
  each_token(context, [&](int t) {
    each_edge(routing, t, [&](int32_t i, int32_t e) {
      const float g = routing.plan.weight[i];
      dz[t][e] += dweight[i] * g * (1 - g);
    });
  });
}

SigmoidNormWeights SigmoidNormWeights::read(Arguments& arguments) {
  return {static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1))};
}

// g_e = scale s_e / (sum over the proposals of s_j + 1e-20).
void SigmoidNormWeights::forward(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.scores(context.experts);
  each_token(context, [&](int t) {
    const float factor = scale / normaliser(routing, z, t);
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = factor * logistic(z[t][e]); });
  });
}

// ds_e = (scale dg_e - sum_j g_j dg_j) / sum, over the proposals, dg 0 where nothing was kept; dz = ds s (1 - s).
void SigmoidNormWeights::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                                  Matrix<float> dz) const {
  const Matrix<const float> z = routing.scores(context.experts);
  each_token(context, [&](int t) {
    float mean = 0;
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += routing.plan.weight[i] * dweight[i]; });
    const float sum = normaliser(routing, z, t);
    const auto add = [&](int32_t e, float ds) {
      const float s = logistic(z[t][e]);
      dz[t][e] += ds / sum * s * (1 - s);
    };
    each_edge(routing, t, [&](int32_t i, int32_t e) { add(e, scale * dweight[i]); });
    each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { add(e, -mean); });
  });
}

}  // namespace choir::moe
