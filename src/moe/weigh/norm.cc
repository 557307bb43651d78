#include "moe/weigh/norm.h"

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

template <class Function>
float sum_over(const Routing& routing, const float* z, int t) {
  float sum = 1e-20f;  // of the published normaliser
  each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { sum += Function::value(z[e]); });
  return sum;
}

}  // namespace

template <class Function>
NormWeights<Function> NormWeights<Function>::read(Arguments& arguments) {
  return {static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1))};
}

// g_e = scale s_e / (sum over the proposals of s_j + 1e-20).
template <class Function>
void NormWeights<Function>::forward(const Context& context, Routing& routing) const {
  each_token(context, [&](int t) {
    const float* z = routing.scores(context.experts)[t];
    const float factor = scale / sum_over<Function>(routing, z, t);
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = factor * Function::value(z[e]); });
  });
}

// ds_e = (scale dg_e - sum_j g_j dg_j) / sum, over the proposals, dg 0 where nothing was kept; dz = ds s'.
template <class Function>
void NormWeights<Function>::backward(const Context& context, const Routing& routing, std::span<const float> dweight,
                                     Matrix<float> dz) const {
  each_token(context, [&](int t) {
    const float* z = routing.scores(context.experts)[t];
    float mean = 0;
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += routing.plan.weight[i] * dweight[i]; });
    const float sum = sum_over<Function>(routing, z, t);
    const auto add = [&](int32_t e, float ds) { dz[t][e] += ds / sum * Function::slope(z[e]); };
    each_edge(routing, t, [&](int32_t i, int32_t e) { add(e, scale * dweight[i]); });
    each_slot(routing.proposed, routing.plan.choices, t, [&](int, int32_t e) { add(e, -mean); });
  });
}

template struct NormWeights<Sigmoid>;
template struct NormWeights<SqrtSoftplus>;

}  // namespace choir::moe
