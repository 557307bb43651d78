// The search of MoE-I2 (arXiv 2411.01016): sets of dropped experts that breed, and the choice among the best few sets
// of consecutive layers by what their block puts out.
#pragma once

#include <functional>

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

// The loss at the output of a block of T layers that keep these sets, one for each.
using BlockLoss = std::function<double(std::span<const std::vector<int>> kept)>;

struct BlockChoice {
  std::vector<size_t> chosen;   // [T] which candidate of each layer
  double loss = 0, greedy = 0;  // of the choice; of the first candidate of every layer, which is never better
  int tried = 0;
};

// Tries every combination of the candidates of T consecutive layers; the first least loss wins. The last layer's
// candidate changes fastest, so that `loss` may keep what the layers before gave. A loss that is not a number never
// wins; Throws Error (input) if that of the first candidates is none.
BlockChoice choose_in_block(std::span<const std::vector<ScoredSet>> candidates, const BlockLoss& loss);

}  // namespace choir::compress
