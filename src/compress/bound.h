// How much any set of kept experts loses at least: branch and bound on a layer's record.
#pragma once

#include "compress/replay.h"
#include "compress/sets.h"

namespace choir::compress {

enum class Fate : uint8_t { kOpen, kKept, kDropped };

// A lower bound of J over all sets of `keep` experts that agree with what is decided (docs/compress.md, C23 and C24):
// for each token the least error over the choices that it may still make, where these are few; otherwise the squared
// distance of what is dropped of it to the span of the answers that it may still use. Exact where all is decided, but
// within groups.
class LossBound {
 public:
  // `weight` [N], none below 0, is not copied; empty: all ones. The record must outlive it.
  LossBound(const LayerRecord& record, std::span<const double> weight, Threads& threads);

  // fate [E]: at most `keep` kept and E - keep dropped. Does not depend on the number of threads.
  double of(std::span<const Fate> fate, int keep) const;

 private:
  const LayerRecord& record_;
  std::span<const double> weight_;
  Threads& threads_;
  Target target_;
};

struct Proof {
  ScoredSet best;       // the best set that is known
  double bound = 0;     // no set loses less, at most best.loss
  bool proved = false;  // the bound is best.loss but for a relative 1e-9 of it
  int64_t nodes = 0;    // partial sets that were bounded
  double gap() const { return best.loss > 0 ? (best.loss - bound) / best.loss : 0; }
};

// Starts from a set, the better the faster, and opens the partial set of the least bound until the proof is done or
// `most_nodes` were bounded. `weight` is that of `replay`, which it leaves anywhere. Throws Error (usage) for a count
// that the layer cannot keep.
Proof prove(Replay& replay, const LossBound& bound, const std::vector<int>& start, int64_t most_nodes);

}  // namespace choir::compress
