// admit "threshold(rate)": an expert takes the proposals that reach its own threshold, which follows the scores it saw
// in the steps before (Expert Threshold routing, arXiv 2603.11535). Each token decides alone: the causal form of expert
// choice.
#pragma once

#include "moe/admit/affinity.h"
#include "moe/arguments.h"

namespace choir::moe {

// theta_e tracks the n-th largest affinity of expert e in a batch, n = rate N / E: `rate` is the mean number of experts
// of a token. Kept iff the affinity is at least theta_e, so that the batch of the threshold keeps exactly n and equal
// affinities are kept rather than lost. Before the first update training takes the batch's own threshold and evaluation
// keeps everything. Only the abstract of the paper was read: decay and the first step are choices of this code.
struct Threshold {
  static constexpr const char* kName = "threshold";
  static constexpr bool kCausal = true;
  float rate = 1, decay = 0.99f;
  Affinity key = Affinity::kScore;

  static Threshold read(Arguments& arguments);
  std::string text() const;
  std::string misfit(int experts, int width) const;
  bool reads_probability() const { return key == Affinity::kProbability; }
  bool reads_cosine(Rule) const { return key == Affinity::kCosine; }
  void admit(const Context& context, Routing& routing) const;

  // State: [E] thresholds, [E] whether each has been seen. Sums: [E] thresholds added up, [E] how many.
  int state_size(int experts) const { return 2 * experts; }
  int sums_size(int experts) const { return 2 * experts; }
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const { track(decay, sums, state); }

 private:
  // [E] of this batch; NaN for an expert without proposals.
  std::span<float> of_batch(const Context& context, const Routing& routing, std::span<const float> affinity,
                            base::Frame& frame) const;
};

}  // namespace choir::moe
