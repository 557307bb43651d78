// Which token comes next, given the logits of the last one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"

namespace choir::runtime {

// The steps apply in this order, as in transformers and vLLM: each sees what the one before it left, renormalised.
struct Sampling {
  float temperature = 0;  // logits are divided by it; 0 takes the largest, the lowest id among equals
  int top_k = 0;          // keep the k most likely; 0 keeps all
  float top_p = 1;        // keep the fewest most likely that hold this share of the probability together
  float min_p = 0;        // keep what has at least this share of the most likely one's probability
  uint64_t seed = 0;
};

// Throws Error (usage) that names the value: a NaN, a negative number, a share outside its range.
void check_sampling(const Sampling& sampling);

// Draws tokens one after another. Equal seeds and logits give equal tokens. Not thread-safe.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling);  // checks it

  // Throws Error (input) when a logit is NaN or +infinity, or all are -infinity. A logit of -infinity is never drawn.
  int32_t pick(std::span<const float> logits);

 private:
  struct Candidate {
    double weight;  // exp((logit - largest) / temperature)
    int32_t id;
  };
  void weigh(std::span<const float> logits, float largest);
  void keep_likely();
  int32_t draw();

  Sampling sampling_;
  base::Rng rng_;
  std::vector<Candidate> candidates_;
};

}  // namespace choir::runtime
