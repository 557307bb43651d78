// Sets of kept experts, and the best few of those seen.
#pragma once

#include <string>

#include "base/rng.h"
#include "compress/record.h"

namespace choir::compress {

struct ScoredSet {
  std::vector<int> kept;  // ascending
  double loss = 0;        // J
};

// Why the layer cannot keep so many experts: its rule, or more pinned ones; empty: it can.
std::string misfit(const LayerRecord& record, int count);
// The smallest number that fits, from `least` on.
int least_count(const LayerRecord& record, int least = 1);
// Throws Error (usage) for a count that the layer cannot keep.
void check_keep(const LayerRecord& record, int count);
// Pinned experts of the group that has most of them.
int most_pinned(const std::vector<int>& pinned, int experts, int groups);
bool is_pinned(const LayerRecord& record, int expert);

// `count` experts, equally many of each group: pinned ones, then the most covered ones (of equals the lower number), or
// any.
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
