// balance "bias(gamma)": each expert has a bias that takes part in the choice alone; after a step it rises by gamma
// where the expert got less than the mean and falls where it got more (arXiv 2408.15664, algorithm 1; DeepSeek-V3).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

struct BiasBalance {
  static constexpr const char* kName = "bias";
  float gamma = 0.001f;

  static BiasBalance read(Arguments& arguments);
  std::string text() const { return written(kName, {written(gamma)}); }
  double loss(const Context&, const Routing&) const { return 0; }
  void backward(const Context&, const Routing&, const BalanceGradient&) const {}

  // State [E]: the bias, added to what proposals compare. Sums [E]: proposals of each expert.
  int state_size(int experts) const { return experts; }
  int sums_size(int experts) const { return experts; }
  void shift(const Context& context, Matrix<float> key) const;
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const;
};

}  // namespace choir::moe
