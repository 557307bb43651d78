// How many tokens an expert may take: the argument of fifo and top_capacity. Known before routing and without a
// gradient.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// Shares are in units of K N / E, an expert's part of all proposals; N counts tokens, not padding. With per=token the
// unit is N / E: where every token proposes every expert, K N / E would be all of them, and nothing a choice.
//   factor(cf)   ceil(cf K N / E)                                                            (Switch, Megatron-LM)
//   factor(cf, eta=h)   ceil(cf h K N / (h E + Z)) and, for each of the Z experts without weights, 1 / h of that; E
//                counts those with weights here                                       (MoE++, arXiv 2410.07348)
//   etr_sum      the smallest count that keeps the share tau of an expert's affinity, largest expert, tracked over the
//                steps before with the given decay                                           (our reading of ETR)
//   etr_bound    exp(z) / E with z = D d^2 / (2 - d^2), d the largest affinity of the step before (ETR, remark 7)
//   locmoe       etr_bound of the first batch, kept for the whole training                   (LocMoE as ETR tells it)
//   theory       2 N r with r the share of tokens that go to an expert and beat its token of the given rank
//                                                                                            (ETR, corollary 6)
// All but factor are clamped to [lo, hi] shares; all are rounded up to a multiple of tile.
struct Capacity {
  enum class Mode { kFactor, kEtrSum, kEtrBound, kLocMoe, kTheory };
  enum class Statistic { kMax, kQuantile };  // of the affinity: the largest, or that which one token in N exceeds

  Mode mode = Mode::kFactor;
  int factor_permille = 1100;  // ceil(1.1 * 50) is 56 in doubles and 55 in truth: factors are whole numbers of 1/1000
  int eta_permille = 1000;
  std::optional<float> tau;  // none: default_tau
  float decay = 0.9f, lo = 0.25f, hi = 1.1f, rank = 0.5f;
  int tile = 1;
  bool per_token = false;
  Statistic statistic = Statistic::kMax;

  static Capacity read(const Phrase* phrase, const Arguments& around);
  std::string text() const;

  // State [1]: the tracked share, 0 before the first step.
  int state_size() const { return mode == Mode::kFactor ? 0 : 1; }
  // The most tokens that one expert takes, at least 1, before tiling at most all. Before the first step the share is
  // hi.
  int tokens(const Context& context, int choices) const;
  // [E] that for each expert: those without weights have their own.
  std::vector<int> of_experts(const Context& context, int choices) const;

  // Sums [2]: calls, and their shares added up. `key` (N,K) holds the affinity of each proposal, cosines for the modes
  // that are about angles; a NaN counts nowhere.
  static constexpr int kSums = 2;
  void observe(const Context& context, const Routing& routing, std::span<const float> key, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const;

 private:
  double unit(const Context& context, int choices) const;  // what a share of 1 is, in tokens
  int rounded_up(int64_t count, const Context& context) const;
  int factor_tokens(const Context& context, int choices, bool idle) const;
  double share_of(const Context& context, const Routing& routing, std::span<const float> key) const;
};

// ln C_min = D d^2 / (2 - d^2) - ln E at the cosine d (ETR, remark 7); a cosine below 0 counts as 0. In logarithms, for
// C_min reaches 1e8 at 0.1.
double log_min_capacity(double cosine, int width, int experts);
// The same at the largest cosine of a proposal, as etr_bound takes it; none without a proposal. The scores must be
// cosines of the tokens, or times their lengths with Routing::inverse_length at hand.
std::optional<double> log_min_capacity(const Context& context, const Routing& routing);

// The share of the affinity that 60 % of an expert's tokens hold in an isotropic batch, the best of them first.
float default_tau(int experts);

}  // namespace choir::moe
