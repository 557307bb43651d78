#include "moe/weigh/chosen.h"

#include <algorithm>
#include <cmath>

#include "moe/weigh/slots.h"

namespace choir::moe {
namespace {

// q_j = exp(z_j - most) / sum over the best of a token of the same.
struct Share {
  const float* z;
  float most = -INFINITY, sum = 0;

  Share(const Context& context, const Routing& routing, int k, int t) : z(routing.scores(context.experts)[t]) {
    each_slot(routing.best, k, t, [&](int, int32_t e) { most = std::max(most, z[e]); });
    each_slot(routing.best, k, t, [&](int, int32_t e) { sum += std::exp(z[e] - most); });
  }
  float operator[](int32_t e) const { return std::exp(z[e] - most) / sum; }
};

}  // namespace

// g_e = exp(z_e - max) / sum over the kept set c of exp(z_j - max).
void ChosenWeights::forward(const Context& context, Routing& routing) const {
  if (over.k > 0) return forward_over(context, routing);
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
  if (over.k > 0) return backward_over(context, routing, dweight, dz);
  const std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    float mean = 0;
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += weight[i] * dweight[i]; });
    each_edge(routing, t, [&](int32_t i, int32_t e) { dz[t][e] += weight[i] * (dweight[i] - mean); });
  });
}

// g_e = q_e for the kept ones.
void ChosenWeights::forward_over(const Context& context, Routing& routing) const {
  over.find(context, routing);
  each_token(context, [&](int t) {
    const Share q(context, routing, over.k, t);
    each_edge(routing, t, [&](int32_t i, int32_t e) { routing.plan.weight[i] = q[e]; });
  });
}

// dz_e = g_e dg_e for the kept ones, - q_e (sum over c of g_j dg_j) for the best.
void ChosenWeights::backward_over(const Context& context, const Routing& routing, std::span<const float> dweight,
                                  Matrix<float> dz) const {
  const std::vector<float>& weight = routing.plan.weight;
  each_token(context, [&](int t) {
    float mean = 0;
    each_edge(routing, t, [&](int32_t i, int32_t) { mean += weight[i] * dweight[i]; });
    each_edge(routing, t, [&](int32_t i, int32_t e) { dz[t][e] += weight[i] * dweight[i]; });
    const Share q(context, routing, over.k, t);
    each_slot(routing.best, over.k, t, [&](int, int32_t e) { dz[t][e] -= q[e] * mean; });
  });
}

}  // namespace choir::moe
