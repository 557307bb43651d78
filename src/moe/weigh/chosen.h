// weigh "chosen": softmax over the kept experts of a token, which is the softmax over all, renormalised over the kept.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// What a capacity refuses raises the weights of what it leaves; softmax(renorm) does not. Where the second expert is
// skipped, that is what is wanted. With one kept expert the weight is 1 and the router gets no gradient.
struct ChosenWeights {
  static constexpr const char* kName = "chosen";

  static ChosenWeights read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  // Fills plan.weight.
  void forward(const Context& context, Routing& routing) const;
  // Adds to dz (N,E), from dweight [M] and the forward's plan.weight.
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
