// weigh "sigmoid_norm(scale)" and "sqrt_softplus_norm(scale)": a positive function of the logit over its sum over the
// token's proposals (DeepSeek-V3, arXiv 2412.19437, eq. 12-15; its successor has the other function). When experts are
// skipped, "kept" sums over those that stay, "over=k" over the k best of the token, kept or not (arXiv 2609.04575).
#pragma once

#include "moe/arguments.h"
#include "moe/logistic.h"
#include "moe/routing.h"
#include "moe/weigh/best.h"

namespace choir::moe {

struct Sigmoid {
  static constexpr const char* kNorm = "sigmoid_norm";
  static float value(float z) { return logistic(z); }
  static float slope(float z) {
    const float s = logistic(z);
    return s * (1 - s);
  }
};

// sqrt(log(1 + e^z)), whose slope is s(z) / (2 sqrt(log(1 + e^z))); far below 0 half the value.
struct SqrtSoftplus {
  static constexpr const char* kNorm = "sqrt_softplus_norm";
  static float value(float z) { return sqrt_softplus(z); }
  static float slope(float z) { return z < -20 ? value(z) / 2 : logistic(z) / (2 * value(z)); }
};

template <class Function>
struct NormWeights {
  static constexpr const char* kName = Function::kNorm;
  float scale = 1;
  bool kept = false;
  Best over{};  // none: the proposals

  static NormWeights read(Arguments& arguments);
  std::string text() const {
    return written(kName,
                   {unless("scale", scale, 1), kept ? "kept" : "", unless("over", static_cast<float>(over.k), 0)});
  }
  std::string misfit(int experts, int) const { return over.misfit(experts); }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

using SigmoidNormWeights = NormWeights<Sigmoid>;
using SqrtSoftplusNormWeights = NormWeights<SqrtSoftplus>;

}  // namespace choir::moe
