// Merging: what a dropped expert knows goes into the kept one that answers most alike.
#pragma once

#include "compress/record.h"
#include "compress/ridge.h"

namespace choir::compress {

// Products of two experts' answers over the tokens that the full layer routes to the first and whose captured ranks
// hold the second, times the first one's squared gain.
struct PairMoments {
  int experts = 0;
  std::vector<double> cross, square, own;  // [E*E] <f_j,f_i>, |f_i|^2, |f_j|^2 at j * E + i

  size_t at(int j, int i) const {
    return static_cast<size_t>(j) * static_cast<size_t>(experts) + static_cast<size_t>(i);
  }
};

PairMoments pair_moments(const LayerRecord& record);

constexpr int kWidestExact = 1024;  // neurons that are paired by the least sum of costs, O(F^3); wider ones greedily

// The pairing with the most sum of likeness (n,n): neuron i of the first goes with result[i] of the second. Above
// kWidestExact neurons the most alike pairs go first. Of equal ones the lower number first.
std::vector<int> pair_neurons(std::span<const double> likeness, int n);

// For each expert the kept one that it is merged into: itself, or of dropped ones that with the largest cosine between
// their answers over the tokens of the dropped one (docs/compress.md, C55); -1 where none was ever captured.
std::vector<int> merge_targets(const PairMoments& moments, std::span<const uint8_t> kept);

struct MergePlan {
  std::vector<int> kept;              // ascending, of the full layer: the experts of the merged one in order
  std::vector<int> target;            // [E] of merge_targets
  std::span<const int64_t> coverage;  // [E] tokens of each expert: what it counts in its mean
};

// Layer l of `pruned`, whose experts are those of plan.kept, with each expert the mean of those of `full` that are
// merged into it: hidden neurons are paired by the likeness of their weights, gate, up and down projections averaged by
// coverage, in the format that they have. Experts of unequal widths are left out. Follow it by refit_down: the mean of
// down projections is a start alone. Equal experts with their neurons in another order merge into the same.
Model with_merged(const Model& full, const Model& pruned, int l, const MergePlan& plan);

}  // namespace choir::compress
