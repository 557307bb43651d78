// weigh "sparsemixer(eps)": each of a token's two choices is weighed in a round of its own, by a softmax over the
// logits that come near it (SparseMixer, arXiv 2310.00811, as Phi-3.5-MoE uses it when it answers).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// Goes with top_k(2) > all: round 1 has all experts, round 2 all but the first choice, and each takes its best, of
// equal ones the lower expert. The weights do not sum to 1; 2 is common. The published training draws the choices and
// estimates a gradient for that; here the gradient is that of these weights, with the choices and who comes near them
// held fixed.
struct SparseMixer {
  static constexpr const char* kName = "sparsemixer";
  float eps = 0.01f;

  static SparseMixer read(Arguments& arguments);
  std::string text() const { return written(kName, {written(eps)}); }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
