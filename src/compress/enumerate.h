// Every set of kept experts of a small layer, on its record.
#pragma once

#include "compress/set_loss.h"
#include "compress/sets.h"

namespace choir::compress {

constexpr int kMostEnumerated = 16;  // experts

// The best `sets` of all C(E,keep) sets (within groups: of those with equally many of each group; all of them with the
// pinned ones), the best first; of equal losses the one whose dropped experts come first in the order of
// combinations(). Throws Error (usage) for more than kMostEnumerated experts or a count that the layer cannot keep.
std::vector<ScoredSet> enumerate(const LayerRecord& record, std::span<const double> weight, int keep, int sets,
                                 Threads& threads);

}  // namespace choir::compress
