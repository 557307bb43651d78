// balance "l1_adaptive(k)": an L1 loss on positive scores whose weight lambda grows while tokens have more than k
// experts in the mean and shrinks while they have fewer (ReMoE, arXiv 2412.14711).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// lambda E sum_e f_e mean_t max(z_te, 0), f_e the share of proposals that name e, a constant. The paper divides the
// counts by K N instead of by all proposals, which presses harder on a router that is far too dense; lambda makes up
// for the difference. The paper has one lambda for all layers; here each layer has its own.
struct L1Adaptive {
  static constexpr const char* kName = "l1_adaptive";
  float k = 1;  // the target: mean experts of a token
  float lambda = 1e-8f, factor = 1.2f;

  static L1Adaptive read(Arguments& arguments);
  std::string text() const;
  std::string misfit(int experts, int width) const;
  bool shares_matter() const { return true; }
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;

  // State [1]: lambda. Sums [2]: tokens, proposals.
  int state_size(int) const { return 1; }
  int sums_size(int) const { return 2; }
  void initial(std::span<float> state) const { state[0] = lambda; }
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const;
};

}  // namespace choir::moe
