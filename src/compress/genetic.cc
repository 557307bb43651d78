#include "compress/genetic.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "compress/choose.h"

namespace choir::compress {
namespace {

// Sets are those of the dropped experts, ascending.
class Nursery {
 public:
  Nursery(const LayerRecord& record, int keep, base::Rng& rng)
      : record_(record),
        keep_(keep),
        size_(record.experts / record.rule.groups),
        each_((record.experts - keep) / record.rule.groups),
        rng_(rng) {}

  std::vector<int> stranger() { return others(random_set(record_, keep_, rng_), record_.experts); }

  // As many of each group as its parents have, from the union of both.
  std::vector<int> child(const std::vector<int>& a, const std::vector<int>& b) {
    std::vector<int> either, result;
    std::ranges::set_union(a, b, std::back_inserter(either));
    for (auto first = either.begin(); first != either.end();) {
      const int group = *first / size_;
      const auto last = std::find_if(first, either.end(), [&](int e) { return e / size_ != group; });
      for (const int i : choose_random(rng_, static_cast<int>(last - first), each_)) result.push_back(first[i]);
      first = last;
    }
    return result;
  }

  // Exchanges one to a quarter of the members, each with an expert of its group that is not dropped.
  void mutate(std::vector<int>& dropped) {
    if (each_ == 0 || each_ == size_) return;
    const size_t exchanges = 1 + draw(std::max<size_t>(1, dropped.size() / 4));
    for (size_t i = 0; i < exchanges; ++i) {
      int& member = dropped[draw(dropped.size())];
      const int first = member / size_ * size_;
      const auto taken = [&](int e) { return std::ranges::count(dropped, e) > 0 || is_pinned(record_, e); };
      bool any = false;
      for (int e = first; e < first + size_; ++e) any = any || !taken(e);
      if (!any) continue;  // all that stay are pinned
      int other = member;
      while (taken(other)) other = first + static_cast<int>(draw(static_cast<size_t>(size_)));
      member = other;
    }
    std::ranges::sort(dropped);
  }

  size_t draw(size_t bound) { return static_cast<size_t>(rng_.below(bound)); }
  bool chance(double share) { return rng_.uniform() < share; }

 private:
  const LayerRecord& record_;
  int keep_, size_, each_;
  base::Rng& rng_;
};

// Those that were never measured.
std::vector<std::vector<int>> unknown(const std::vector<std::vector<int>>& young, std::set<std::vector<int>>& seen) {
  std::vector<std::vector<int>> fresh;
  for (const std::vector<int>& dropped : young)
    if (seen.insert(dropped).second) fresh.push_back(dropped);
  return fresh;
}

void check_options(const GeneticOptions& options) {
  if (options.population >= 2 && options.generations >= 0 && options.sets >= 1) return;
  base::usage_error("a genetic search needs a population of 2 and a number of generations",
                    std::to_string(options.population) + " and " + std::to_string(options.generations),
                    "the published ones are 100 and 50");
}

}  // namespace

std::vector<ScoredSet> breed(const SetLoss& loss, int keep, const GeneticOptions& options) {
  const LayerRecord& record = loss.record();
  check_keep(record, keep);
  check_options(options);
  base::Rng rng(options.seed);
  Nursery nursery(record, keep, rng);
  std::set<std::vector<int>> seen;
  BestSets living(std::max(options.population, options.sets));
  std::vector<std::vector<int>> young;
  for (int i = 0; i < options.population; ++i) young.push_back(nursery.stranger());
  for (int generation = 0;; ++generation) {
    std::vector<std::vector<int>> kept;
    for (const std::vector<int>& dropped : unknown(young, seen)) kept.push_back(others(dropped, record.experts));
    const std::vector<double> losses = loss.losses(kept);
    for (size_t i = 0; i < kept.size(); ++i) living.offer({kept[i], losses[i]});
    if (generation == options.generations) break;
    const double share = options.parents * options.population;
    const size_t parents = std::clamp<size_t>(static_cast<size_t>(share), 1, living.best().size());
    const auto parent = [&] { return others(living.best()[nursery.draw(parents)].kept, record.experts); };
    for (std::vector<int>& child : young) {
      child = nursery.child(parent(), parent());
      if (nursery.chance(options.mutated)) nursery.mutate(child);
    }
  }
  std::vector<ScoredSet> best = living.best();
  best.resize(std::min(best.size(), static_cast<size_t>(options.sets)));
  return best;
}

}  // namespace choir::compress
