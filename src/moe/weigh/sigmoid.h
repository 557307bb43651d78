// weigh "sigmoid" and "sigmoid_norm(scale)": the logistic function of the logit, by itself (BASE, arXiv 2103.16716) or
// divided by its sum over the token's proposals (DeepSeek-V3, arXiv 2412.19437, eq. 12-15).
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

struct SigmoidNormWeights {
  static constexpr const char* kName = "sigmoid_norm";
  float scale = 1;

  static SigmoidNormWeights read(Arguments& arguments);
  std::string text() const { return written(kName, {unless("scale", scale, 1)}); }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
