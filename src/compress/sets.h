// Sets of kept experts, and the best few of those seen.
#pragma once

#include "base/rng.h"
#include "compress/record.h"

namespace choir::compress {

struct ScoredSet {
  std::vector<int> kept;  // ascending
  double loss = 0;        // J
};

// Throws Error (usage) for a count that the layer cannot keep.
void check_keep(const LayerRecord& record, int count);

// `count` experts, equally many of each group: the most covered ones (of equals the lower number), or any.
std::vector<int> frequent_set(const LayerRecord& record, int count);
std::vector<int> random_set(const LayerRecord& record, int count, base::Rng& rng);

// The kept ones of a vector of marks.
std::vector<int> members(std::span<const uint8_t> kept);

// The best `room` distinct sets of those offered; of equal losses the one that was offered first stays first. A
// loss that is not a number is never among them.
class BestSets {
 public:
  explicit BestSets(int room) : room_(static_cast<size_t>(room)) {}

  bool wanted(double loss) const { return best_.size() < room_ ? loss == loss : loss < best_.back().loss; }
  void offer(ScoredSet set);
  const std::vector<ScoredSet>& best() const { return best_; }

 private:
  size_t room_;
  std::vector<ScoredSet> best_;
};

}  // namespace choir::compress
