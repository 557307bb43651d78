// weigh "sigmoid": the logistic function of the logit (BASE, arXiv 2103.16716).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct SigmoidWeights {
  static constexpr const char* kName = "sigmoid";

  static SigmoidWeights read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
