// balance "quantile(decay)": each expert has a threshold beta_e that is taken off its score for the choice alone and is
// solved for after each step, so that the next one balances (J. Su, kexue.fm/archives/11619, 2026; Megatron-LM).
#pragma once

#include "moe/balance/load.h"

namespace choir::moe {

// One step over a batch: alpha_t = the (K+1)-th largest of z_t - beta; beta_e = the (N K / E + 1)-th largest over t of
// z_te - alpha_t, minus its mean over e, which shifts all experts alike. Tracked with `decay`; the published default is
// 0, no memory, for batches of millions of tokens. z is what proposals compare: the sigmoid, where that is selected by.
struct Quantile {
  static constexpr const char* kName = "quantile";
  float decay = 0.9f;

  static Quantile read(Arguments& arguments);
  std::string text() const { return written(kName, {unless("decay", decay, 0.9f)}); }
  double loss(const Context&, const Routing&) const { return 0; }
  void backward(const Context&, const Routing&, const BalanceGradient&) const {}

  // State [E+1]: whether there is a beta yet, and beta. Sums [2E]: beta of each call added up, then how many; a masked
  // expert has none, and no part in the mean.
  int state_size(int experts) const { return experts + 1; }
  int sums_size(int experts) const { return 2 * experts; }
  void shift(const Context& context, Matrix<float> key) const;
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const;
};

}  // namespace choir::moe
