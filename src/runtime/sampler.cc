#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace choir::runtime {
namespace {

// Written so that a NaN fails.
void require(bool sound, const char* name, const std::string& value, const char* range) {
  if (!sound) base::usage_error("not a value for sampling: " + value, name, range);
}

// The place of the largest logit, the first among equals.
size_t place_of_largest(std::span<const float> logits) {
  size_t best = 0;
  bool sound = !logits.empty();
  for (size_t i = 0; i < logits.size(); ++i) {
    sound = sound && logits[i] < std::numeric_limits<float>::infinity();
    if (logits[i] > logits[best]) best = i;
  }
  if (!sound || !std::isfinite(logits[best]))
    base::input_error("the logits are not finite", "model", "its weights are damaged or overflow");
  return best;
}

}  // namespace

void check_sampling(const Sampling& s) {
  require(s.temperature >= 0 && std::isfinite(s.temperature), "temperature", std::to_string(s.temperature),
          "0 (greedy) or more");
  require(s.top_k >= 0, "top_k", std::to_string(s.top_k), "0 (no limit) or more");
  require(s.top_p > 0 && s.top_p <= 1, "top_p", std::to_string(s.top_p), "above 0, at most 1");
  require(s.min_p >= 0 && s.min_p <= 1, "min_p", std::to_string(s.min_p), "from 0 to 1");
}

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling), rng_(sampling.seed) { check_sampling(sampling); }

int32_t Sampler::pick(std::span<const float> logits) {
  const size_t best = place_of_largest(logits);
  if (sampling_.temperature == 0) return static_cast<int32_t>(best);
  weigh(logits, logits[best]);
  keep_likely();
  return draw();
}

void Sampler::weigh(std::span<const float> logits, float largest) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double below = static_cast<double>(logits[i]) - static_cast<double>(largest);
    candidates_[i] = {std::exp(below / static_cast<double>(sampling_.temperature)), static_cast<int32_t>(i)};
  }
}

void Sampler::keep_likely() {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  if (sampling_.top_k > 0 && static_cast<size_t>(sampling_.top_k) < candidates_.size()) {
    std::ranges::nth_element(candidates_, candidates_.begin() + sampling_.top_k, likelier);
    candidates_.resize(static_cast<size_t>(sampling_.top_k));
  }
  if (sampling_.top_p < 1) {
    std::ranges::sort(candidates_, likelier);
    double total = 0, held = 0;
    for (const Candidate& c : candidates_) total += c.weight;
    size_t kept = 0;
    while (kept < candidates_.size() && held < static_cast<double>(sampling_.top_p) * total)
      held += candidates_[kept++].weight;
    candidates_.resize(kept);
  }
  // The most likely one has weight 1 and is never cut before.
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < static_cast<double>(sampling_.min_p); });
}

int32_t Sampler::draw() {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double left = rng_.uniform() * total;
  const Candidate* last = nullptr;  // what the draw falls back on when rounding leaves a rest
  for (const Candidate& c : candidates_) {
    if (c.weight == 0) continue;
    last = &c;
    left -= c.weight;
    if (left < 0) break;
  }
  return last->id;
}

}  // namespace choir::runtime
