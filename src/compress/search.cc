#include "compress/search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace choir::compress {
namespace {

struct Swap {
  double change;
  int out, in;
};

int group_size(const LayerRecord& record) { return record.experts / record.rule.groups; }

// Who goes next: the least change of J in a group that still has its turn; -1: nobody.
int cheapest(const Replay& replay, const std::vector<uint8_t>& served) {
  const std::vector<double> change = replay.removals();
  int best = -1;
  for (int e = 0; e < replay.record().experts; ++e) {
    if (!replay.kept()[e] || served[e / group_size(replay.record())] || is_pinned(replay.record(), e)) continue;
    if (best < 0 || change[e] < change[best]) best = e;
  }
  return best;
}

// The swaps of a sweep that gain, the greatest gain first; offers the sets that the others lead to.
std::vector<Swap> gains_of(const Replay& replay, BestSets& best) {
  const std::vector<double> change = replay.swaps(true);
  const int n = replay.record().experts, size = group_size(replay.record());
  std::vector<Swap> gains;
  for (int out = 0; out < n; ++out)
    for (int in = 0; in < n; ++in) {
      if (is_pinned(replay.record(), out)) break;
      if (!replay.kept()[out] || replay.kept()[in] || out / size != in / size) continue;
      const double by = change[static_cast<size_t>(out) * static_cast<size_t>(n) + static_cast<size_t>(in)];
      if (by < 0) gains.push_back({by, out, in});
      if (by < 0 || !best.wanted(replay.loss() + by)) continue;
      std::vector<uint8_t> kept = replay.kept();
      kept[out] = 0;
      kept[in] = 1;
      best.offer({members(kept), replay.loss() + by});
    }
  std::ranges::stable_sort(gains, {}, &Swap::change);
  return gains;
}

}  // namespace

std::vector<int> Elimination::kept(int count) const {
  CHOIR_CHECK(count <= experts && experts - count <= static_cast<int>(order.size()), "a count that was reached");
  std::vector<uint8_t> there(static_cast<size_t>(experts), 1);
  for (int i = 0; i < experts - count; ++i) there[order[i]] = 0;
  return members(there);
}

Elimination eliminate(Replay& replay, int keep) {
  const LayerRecord& record = replay.record();
  check_keep(record, keep);
  Elimination result;
  result.experts = record.experts;
  result.loss.assign(static_cast<size_t>(record.experts) + 1, std::numeric_limits<double>::quiet_NaN());
  replay.keep(members(std::vector<uint8_t>(static_cast<size_t>(record.experts), 1)));
  std::vector<uint8_t> served(static_cast<size_t>(record.rule.groups), 0);
  while (true) {
    if (!std::isfinite(replay.loss()))
      base::input_error("the answers of a layer are not finite", "with " + std::to_string(replay.count()) + " experts",
                        "check the weights and the calibration text");
    if (misfit(record, replay.count()).empty()) result.loss[replay.count()] = replay.loss();
    if (replay.count() == keep) return result;
    if (!std::ranges::count(served, 0)) std::ranges::fill(served, uint8_t{0});
    const int expert = cheapest(replay, served);
    served[expert / group_size(record)] = 1;
    replay.remove(expert);
    result.order.push_back(expert);
  }
}

// The first swap of a sweep is the best one. The others follow as long as they lower the loss too: their predictions
// are of the set before, so each is undone if it does not.
int improve(Replay& replay, BestSets& best) {
  int made = 0;
  while (true) {
    best.offer({members(replay.kept()), replay.loss()});
    const int before = made;
    std::vector<uint8_t> moved(replay.kept().size(), 0);
    for (const Swap& swap : gains_of(replay, best)) {
      if (moved[swap.out] || moved[swap.in]) continue;
      const double loss = replay.loss();
      replay.swap(swap.out, swap.in);
      if (!(replay.loss() < loss)) {
        replay.swap(swap.in, swap.out);
        break;
      }
      moved[swap.out] = moved[swap.in] = 1;
      ++made;
    }
    if (made == before) return made;
  }
}

std::vector<ScoredSet> search(Replay& replay, const Elimination& elimination, int keep, const SearchOptions& options) {
  const LayerRecord& record = replay.record();
  check_keep(record, keep);
  BestSets best(options.sets);
  std::vector<int> start = elimination.kept(keep);
  replay.keep(start);
  const double eliminated = replay.loss();
  replay.keep(frequent_set(record, keep));
  if (eliminated <= replay.loss()) replay.keep(start);
  improve(replay, best);
  base::Rng rng(options.seed);
  for (int i = 0; i < options.restarts; ++i) {
    replay.keep(random_set(record, keep, rng));
    improve(replay, best);
  }
  std::vector<ScoredSet> found = best.best();
  for (ScoredSet& set : found) {  // what the swaps predicted, without their rounding
    replay.keep(set.kept);
    set.loss = replay.loss();
  }
  std::ranges::stable_sort(found, {}, &ScoredSet::loss);
  return found;
}

}  // namespace choir::compress
