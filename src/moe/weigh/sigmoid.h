// weigh "sigmoid": the logistic function of the logit (BASE, arXiv 2103.16716), times a scale (DeepSeek-V3 without
// norm_topk_prob).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct SigmoidWeights {
  static constexpr const char* kName = "sigmoid";

  float scale = 1;

  static SigmoidWeights read(Arguments& arguments) {
    return {static_cast<float>(arguments.number("scale", 1e-6, 1e6, 1))};
  }
  std::string text() const { return written(kName, {unless("scale", scale, 1)}); }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
