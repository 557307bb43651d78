// The search of MoE-I2 (arXiv 2411.01016) in one layer: sets of dropped experts that breed.
#pragma once

#include "compress/set_loss.h"
#include "compress/sets.h"

namespace choir::compress {

// The defaults are the paper's, and of a public re-implementation where the paper names none (parents, mutated).
struct GeneticOptions {
  int population = 100, generations = 50;
  double parents = 0.2;  // share of the population that breeds
  double mutated = 0.3;  // share of the children of which members are exchanged
  uint64_t seed = 1;
  int sets = 1;  // how many of the best distinct sets to return
};

// The best sets of `keep` experts that were met, the best first. A child drops experts that one of its two parents
// drops (within groups as many of each). The best of parents and children live on. Every set is measured once.
// Throws Error (usage) for a count that the layer cannot keep. Deterministic.
std::vector<ScoredSet> breed(const SetLoss& loss, int keep, const GeneticOptions& options);

}  // namespace choir::compress
