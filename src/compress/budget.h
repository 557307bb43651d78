// How many experts each layer keeps when the model as a whole may keep so many.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/calibration.h"
#include "compress/record.h"

namespace choir::compress {

// J(R = nobody): the weighted sum over tokens of |z_t|^2, by which a layer's losses become comparable (C33).
// `weight` [N]; empty: all ones.
double output_energy(const LayerRecord& record, std::span<const double> weight);
// Sum of |h_t|^2: the loss beside the stream that the layer adds to.
double residual_energy(const LayerRecord& record, std::span<const double> weight);

// The bytes that one expert of the layer takes, its row of the gate included; of the largest where they differ.
int64_t expert_bytes(const Model& model, int layer);

// What one layer loses by keeping r experts.
struct LayerCurve {
  moe::SubsetRule rule;
  std::vector<double> loss;  // [E+1] at r, comparable among layers; infinity where it is not known
  int64_t bytes = 0;         // of one expert
  int least = 0;             // more than the rule asks for: pinned experts, for example

  int experts() const { return static_cast<int>(loss.size()) - 1; }
};

struct Budget {
  enum class Of { kExperts, kBytes };
  Of of = Of::kExperts;
  int64_t total = 0;  // at most
  int slack = 0;      // experts above top-k that every layer keeps
};

// The counts with the least sum of losses within the budget, by dynamic programming (C34); of equal sums the one with
// the smaller counts in the last layers. Only counts that the layer's rule can live with and whose loss is known are
// taken. Never worse than allocate_uniform. Bytes are exact unless the budget is more than 2^18 times the greatest
// common divisor of the layers' costs; then costs are rounded up, so that the budget holds all the same.
// Throws Error (usage) when the budget is too small for every layer's floor, saying what is needed.
std::vector<int> allocate(std::span<const LayerCurve> layers, const Budget& budget);

// The largest count that is the same in all layers and within the budget. Throws Error (usage) when there is none.
std::vector<int> allocate_uniform(std::span<const LayerCurve> layers, const Budget& budget);

double total_loss(std::span<const LayerCurve> layers, const std::vector<int>& counts);

}  // namespace choir::compress
