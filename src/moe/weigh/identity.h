// weigh "identity": the score is the weight (ReMoE, arXiv 2412.14711, where it is positive; hashing, where it is 1).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

struct IdentityWeights {
  static constexpr const char* kName = "identity";

  static IdentityWeights read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
