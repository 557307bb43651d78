// Which experts of a layer stay, on its record: elimination, exact swaps and restarts (docs/compress.md).
#pragma once

#include "compress/replay.h"
#include "compress/sets.h"

namespace choir::compress {

// Experts taken out one after another, each time the one whose absence costs least (of equals the lower number), never
// a pinned one. The sets are nested. Within groups every round takes one expert from each group, the cheapest group
// first.
struct Elimination {
  int experts = 0;
  std::vector<int> order;  // who went, the first one first
  std::vector<double>
      loss;  // [E+1] J with that many left; NaN where the layer cannot keep so many or it was not reached

  std::vector<int> kept(int count) const;  // ascending; only for counts that were reached
};

// From all experts down to `keep`, where it leaves `replay`. Throws Error (usage) for a count that the layer cannot
// keep, (input) for a record whose loss is not a number.
Elimination eliminate(Replay& replay, int keep);

struct SearchOptions {
  int restarts = 4;   // from random sets
  uint64_t seed = 1;  // of them
  int sets = 1;       // how many of the best distinct sets to return
};

// The best sets of `keep` experts, the best first, fewer than options.sets where fewer were seen. Starts from the
// elimination, which must have reached `keep`, or from the most covered experts, whichever loses less, then from random
// sets; swaps from each until none lowers J. The first one loses no more than any of the sets it started from. Leaves
// `replay` anywhere. Deterministic.
std::vector<ScoredSet> search(Replay& replay, const Elimination& elimination, int keep, const SearchOptions& options);

// Sweeps of exact swaps from the set of `replay`, best first, until none lowers J; offers what it meets to `best`.
// Returns how many swaps it made. Within groups an expert's place is taken by one of its own group.
int improve(Replay& replay, BestSets& best);

}  // namespace choir::compress
