#include "moe/weigh/chosen.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace choir::moe {
namespace {

std::span<const int32_t> edges_of(const Plan& plan, int token) {
  return std::span(plan.edge).subspan(static_cast<size_t>(token) * plan.choices, static_cast<size_t>(plan.choices));
}

}  // namespace

// g_e = exp(z_e - max) / sum over the kept set c of exp(z_j - max).
void ChosenWeights::forward(tensor::Matrix<const float> z, Plan& plan) const {
  std::vector<int32_t> expert(plan.token.size());
  for (int e = 0; e < plan.experts(); ++e)
    std::fill(expert.begin() + plan.offset[e], expert.begin() + plan.offset[e + 1], e);
  for (int t = 0; t < plan.tokens; ++t) {
    float most = -INFINITY, sum = 0;
    for (const int32_t i : edges_of(plan, t))
      if (i >= 0) most = std::max(most, z[t][expert[i]]);
    for (const int32_t i : edges_of(plan, t))
      if (i >= 0) sum += plan.weight[i] = std::exp(z[t][expert[i]] - most);
    for (const int32_t i : edges_of(plan, t))
      if (i >= 0) plan.weight[i] /= sum;
  }
}

// dz_e = g_e (dg_e - sum over c of g_j dg_j).
void ChosenWeights::backward(std::span<const float> dweight, const Plan& plan, tensor::Matrix<float> dz) const {
  std::vector<float> mean(static_cast<size_t>(plan.tokens));
  for (int t = 0; t < plan.tokens; ++t)
    for (const int32_t i : edges_of(plan, t))
      if (i >= 0) mean[t] += plan.weight[i] * dweight[i];
  for (int e = 0; e < plan.experts(); ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) {
      const int t = plan.token[i];
      dz[t][e] += plan.weight[i] * (dweight[i] - mean[t]);
    }
}

}  // namespace choir::moe
