// What an expert compares its candidates by, and thresholds of it that are tracked over training.
#pragma once

#include "moe/routing.h"

namespace choir::moe {

// The cosine between token and gate, the logit, or the softmax probability.
enum class Affinity { kCosine, kScore, kProbability };

// Of any token and expert of a routing; that and the frame must outlive it. The cosine of a linear gate is z / (|w_e|
// |x_t|), so nothing is multiplied again; scores that are cosines already are divided by their scale.
class Affinities {
 public:
  Affinities(Affinity kind, const Context& context, const Routing& routing, base::Frame& frame);
  float at(int t, int e) const {
    const float value = from_[t][e];
    return inverse_token_.empty()
               ? value * factor_
               : value * inverse_token_[static_cast<size_t>(t)] * inverse_gate_[static_cast<size_t>(e)];
  }

 private:
  Matrix<const float> from_;
  float factor_ = 1;
  std::span<const float> inverse_token_, inverse_gate_;
};

// [N*K] of each proposal; 0 where there is none. To a list of that size, or to one of a frame.
void of_proposals(const Affinities& affinity, const Context& context, const Routing& routing, std::span<float> to);
std::span<const float> affinities(Affinity kind, const Context& context, const Routing& routing, base::Frame& frame);

// The affinities of each expert's proposals that are numbers, by a counting sort: those of e are list[first[e]] ..
// list[first[e+1]-1].
class ByExpert {
 public:
  ByExpert(const Context& context, const Routing& routing, std::span<const float> key, base::Frame& frame);
  std::span<float> of(size_t e) const { return list_.subspan(first_[e], first_[e + 1] - first_[e]); }

 private:
  std::span<float> list_;
  std::span<size_t> first_;  // [E+1]
};

// Moves thresholds by 1 - decay towards the mean of what was seen; the first is taken whole. Sums [2E]: thresholds
// added up, then how many. State [2E]: thresholds, then whether each has been seen.
void track(float decay, std::span<const float> sums, std::span<float> state);

}  // namespace choir::moe
