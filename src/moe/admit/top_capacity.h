// admit "top_capacity(capacity)": an expert keeps those of its proposals that it has the highest affinity for.
#pragma once

#include "moe/admit/affinity.h"
#include "moe/admit/capacity.h"

namespace choir::moe {

// The expert step of Expert-Token Resonance (arXiv 2406.00023, eq. 6), the capacity drop by probability of Megatron-LM,
// and expert choice (arXiv 2202.09368) after propose "all". Of equal affinities the lower token stays.
struct TopCapacity {
  static constexpr const char* kName = "top_capacity";
  static constexpr bool kCausal = false;
  enum class Decode { kTokenChoice, kThreshold };

  Capacity capacity;
  Affinity key = Affinity::kCosine;
  float floor = -1;  // proposals with a smaller affinity are dropped first (cosines only)
  // A dropped proposal goes to the token's best other expert, by what proposals compare, that has room and reaches the
  // floor; lower tokens first.
  bool reroute = false;
  bool bottom = false;  // ablation: keep the lowest instead of the highest
  // Away from training: keep every proposal, or those that reach the expert's threshold, which is the affinity of the
  // last one it took, tracked over training.
  Decode decode = Decode::kTokenChoice;
  float decay = 0.99f;  // of the threshold

  static TopCapacity read(Arguments& arguments);
  std::string text() const;
  bool reads_probability() const { return key == Affinity::kProbability; }
  bool reads_cosine(Rule rule) const {
    if (rule == Rule::kTraining) return key == Affinity::kCosine || capacity.state_size() > 0;
    return key == Affinity::kCosine && (floor > -1 || decode == Decode::kThreshold);
  }
  void admit(const Context& context, Routing& routing) const;

  // State: of the capacity, then [E] thresholds, then [E] whether each has been seen.
  int state_size(int experts) const { return capacity.state_size() + (decode == Decode::kThreshold ? 2 * experts : 0); }
  // Sums: of the capacity, then [E] thresholds added up, then [E] how many.
  int sums_size(int experts) const { return Capacity::kSums + (decode == Decode::kThreshold ? 2 * experts : 0); }
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const;

 private:
  void admit_decoding(const Context& context, std::span<const float> affinity, Routing& routing) const;
  // What is left of `room`, the tokens that each expert may take.
  void keep_best(const Context& context, std::span<const float> affinity, std::vector<int>& room,
                 Routing& routing) const;
  void send_on(const Context& context, const Affinities& affinity, std::vector<int> room, Routing& routing) const;
};

}  // namespace choir::moe
