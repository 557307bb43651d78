// A pruning plan: which experts each layer keeps, for one count or several, as JSON that any program can read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compress/calibration.h"

namespace choir::compress {

struct PlanSet {
  std::vector<int> keep;       // ascending, numbers in the model that the plan is for
  std::optional<double> loss;  // by the plan's criterion; nothing where it was not measured

  bool operator==(const PlanSet&) const = default;
};

struct PlanLayer {
  int experts = 0;
  std::vector<int> original;  // [E] the number of each expert in the first, never pruned model
  std::vector<PlanSet> sets;  // by rising count, each count once

  bool operator==(const PlanLayer&) const = default;
};

struct Plan {
  std::string fingerprint;  // of the model
  std::string calibration;  // hash of the token ids
  int64_t tokens = 0;       // of the calibration
  std::string criterion;    // what chose the sets, a name for people and programs
  std::string objective;    // what `loss` is, in words
  uint64_t seed = 0;
  bool nested = false;      // every set of a layer holds the smaller ones
  std::vector<int> counts;  // [L] how many each layer keeps unless another number is asked for
  std::vector<PlanLayer> layers;

  bool operator==(const Plan&) const = default;
};

// A plan for this model without sets: fingerprint, sizes and original numbers filled in.
Plan empty_plan(const Model& model, const std::string& fingerprint);

// Appears whole or not at all. The plan must be sound, as parse_plan has it.
void write_plan(const std::string& path, const Plan& plan, base::Existing existing);

// Throws Error (input) that names `where` and the field: an unknown or missing key, an expert twice, out of order or
// out of range, counts that do not rise, or that no set has, sets that are not nested in a plan that says they are.
Plan parse_plan(std::string_view text, const std::string& where);
Plan read_plan(const std::string& path);

// Throws Error (input) in one line when the plan is for another model, or keeps fewer experts than a token uses or
// unequal numbers in the groups of a router. `where` is the plan's file.
void check_plan(const Plan& plan, const Model& model, const std::string& fingerprint, const std::string& where);

// The experts that each layer keeps: `counts` is empty (the plan's own), one number for all layers, or one for each.
// Throws Error (usage) for a count without a set, naming the layer and its counts.
std::vector<std::vector<int>> keep_lists(const Plan& plan, std::vector<int> counts);

// The smaller model of a plan that was checked against this one, thresholds of skipping left out; shares its tensors.
Model planned_model(const Model& model, const std::vector<std::vector<int>>& keep);

}  // namespace choir::compress
