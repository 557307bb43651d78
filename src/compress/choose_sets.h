// The set of experts that a layer keeps, by any method that works on its record.
#pragma once

#include <optional>

#include "compress/bound.h"
#include "compress/budget.h"
#include "compress/criteria.h"

namespace choir::compress {

enum class SetMethod {
  kExact,    // all sets; up to kMostEnumerated experts
  kSearch,   // elimination, swaps and restarts
  kNested,   // elimination as it is: the sets of smaller counts are inside those of larger ones
  kGenetic,  // the search of MoE-I2
  kSampled,  // the published search on sets drawn at random
  kScore,    // a criterion; nested too
};

struct SetOptions {
  SetMethod method = SetMethod::kSearch;
  Criterion criterion = Criterion::kReap;       // of kScore
  Objective objective = Objective::kPublished;  // what kExact to kGenetic make small
  uint64_t seed = 1;
  int samples = 1000;       // of kSampled
  int64_t prove_nodes = 0;  // of kSearch and kGenetic: branch and bound behind the search; 0: none

  bool nested() const { return method == SetMethod::kNested || method == SetMethod::kScore; }
};

// "exact, search, ..., random, frequency, ..."
std::string method_names();
// Sets method and criterion. Throws Error (usage) that lists the names.
void parse_method(const std::string& name, SetOptions& options);

struct SetChoice {
  std::vector<int> keep;              // ascending
  double loss = 0;                    // (C1), whatever the objective: comparable among methods and with prune()
  double objective = 0;               // J by the objective (C10, C20)
  double relative = 0;                // the same by (C33)
  std::optional<int64_t> candidates;  // sets that were compared, where the method counts them
  int64_t short_of = 0;               // tokens that lack an expert beyond the captured ranks
  std::optional<Proof> proof;
  std::vector<int> super;  // super experts (C31) that are dropped, for they were not pinned
};

// Deterministic; layer and seed decide what is random. Throws Error (usage) for a count that the layer cannot keep or a
// layer too large for kExact, (input) for losses that are not numbers.
SetChoice choose_set(const LayerRecord& record, int layer, int keep, const SetOptions& options, Threads& threads);

// The best few sets of `keep` experts, the best first, of kExact, kSearch and kGenetic. Throws as choose_set does, and
// Error (usage) for another method.
std::vector<ScoredSet> best_sets(const LayerRecord& record, int layer, int keep, int sets, const SetOptions& options,
                                 Threads& threads);

// What choose_set says of a set that was chosen elsewhere.
SetChoice measure_set(const LayerRecord& record, int layer, const std::vector<int>& keep, const SetOptions& options,
                      Threads& threads);

// One set for each count from `least` on that the layer can keep, each inside the next: by the criterion for kScore,
// else by elimination. The losses are by (C33). By rising count.
std::vector<ScoredSet> nested_sets(const LayerRecord& record, int layer, int least, const SetOptions& options,
                                   Threads& threads);

// The losses of nested_sets as a curve; its cost in bytes is left to the caller.
LayerCurve curve_of(const LayerRecord& record, const std::vector<ScoredSet>& sets);

// The fewest experts that a layer can keep and that the record's ranks are made for (ranks_for).
int least_served(const LayerRecord& record);

}  // namespace choir::compress
