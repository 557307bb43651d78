// Which experts stay, once each has a score, and by trying sets at random.
#pragma once

#include <span>
#include <vector>

#include "compress/replay.h"

namespace choir::compress {

// Experts of a layer with their scores. `pinned` are never dropped.
struct ScoredLayer {
  moe::SubsetRule rule;
  std::vector<double> score;  // [E] finite
  std::vector<int> pinned = {};
};

// The `keep` best, ascending; in each of the router's groups the same number. Of equal scores the lower number stays.
// Throws Error (usage) for a count that the rule cannot live with, or too small for a group's pinned experts.
std::vector<int> choose_by_score(const ScoredLayer& layer, int keep);

// One ranking over all layers: from the least that every layer can live with, `slack` experts more and room for its
// pinned ones on, the layer with the best next expert gets one more, until `total` are kept (C32). How many of each
// layer; which ones says choose_by_score. A router with groups gets one more in each group at once, worth their mean,
// and only where they still fit; so up to that many fewer may be kept. Of equal scores the lower layer gains. Throws
// Error (usage) when the total is too small.
std::vector<int> counts_over_layers(std::span<const ScoredLayer> layers, int64_t total, int slack);

struct SampledChoice {
  std::vector<int> keep;  // ascending
  double loss = 0;        // Replay::batched_norms()
};

// The published search where it cannot enumerate: the best of `samples` sets drawn at random, of equal ones the first.
// Pinned experts are in every set. Throws Error (usage) for a count that the layer cannot keep.
SampledChoice choose_sampled(const LayerRecord& record, int keep, int samples, uint64_t seed, Threads& threads);

}  // namespace choir::compress
