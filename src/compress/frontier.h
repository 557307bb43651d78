// The models between which a user chooses: fewer experts at several ratios, fewer evaluations at several shares, all
// from one capture.
#pragma once

#include "compress/choose_sets.h"
#include "compress/record_source.h"
#include "compress/skip_budget.h"

namespace choir::compress {

inline constexpr double kKeepRatios[] = {7 / 8., 3 / 4., 5 / 8., 1 / 2., 3 / 8., 1 / 4.};
inline constexpr double kSkipShares[] = {0.9, 0.8, 0.7, 0.6, 0.5};

struct FrontierOptions {
  double least = 0.25;  // the share of its experts that every layer keeps, at least
  Objective objective = Objective::kStream;
  uint64_t seed = 1;  // of the search's restarts and of the first random draw
  int draws = 20;     // of the random baseline, each with the next seed
};

// The kept experts of one method at one ratio.
struct KeptChoice {
  std::string method;  // search: layers share the experts (C34); uniform: each is searched at the ratio; and the scores
                       // reap, frequency, random, of which each layer keeps the best; random once for each draw
  double ratio = 1;    // that was asked for
  std::vector<std::vector<int>> keep = {};  // [L] ascending
  double loss = 0;                          // sum of the layers' (C33)
};

// The fewest experts that each layer's rule allows, at least this share of them. Throws Error (input) for a router that
// experts cannot be taken from.
std::vector<int> least_counts(const Model& model, double share);

// What each layer loses by keeping fewer experts. Holds no record. Not thread-safe.
class PruningFrontier {
 public:
  // `bytes` [L] of one expert of each layer. Eliminates in every layer, down to the least share or to what the records
  // serve. What is given must outlive it. Throws Error (usage) for a share out of range.
  PruningFrontier(RecordSource& records, const std::vector<int64_t>& bytes, const FrontierOptions& options,
                  Threads& threads, const Progress& progress = {});

  // For each layer count_of_share(); nothing where a layer cannot be left with it, or it is below the layer's least.
  std::optional<std::vector<int>> counts_at(double ratio) const;

  // The counts with the least sum of losses whose experts take `total` bytes at most, where one of layer l takes
  // bytes[l]. Throws Error (usage) as allocate() does.
  std::vector<int> counts_within(int64_t total, std::span<const int64_t> bytes) const;

  // The best sets of these counts, found by swaps.
  std::vector<std::vector<int>> searched(const std::vector<int>& counts, const Progress& progress = {});

  // For each ratio that is allowed, and whose counts keep not all and are not those of an earlier one, every method,
  // the baselines always, the draws of random one after another; no method's experts take more bytes than the uniform
  // counts. Asks for the records once.
  std::vector<KeptChoice> choices(std::span<const double> ratios, const Progress& progress = {});

 private:
  struct Wanted {
    KeptChoice choice;
    std::vector<int> counts;
    SetOptions set;
  };
  SetOptions options_for(const std::string& method) const;
  void settle(std::vector<Wanted>& wanted, const Progress& progress);

  RecordSource& records_;
  FrontierOptions options_;
  Threads& threads_;
  std::vector<LayerCurve> curves_;  // [L] of elimination
};

// Policies of skipping for each share below 1 that is allowed.
struct SkippingChoice {
  double share = 1;  // of the evaluations, asked for
  BudgetResult policy;
};
std::vector<SkippingChoice> skipping_choices(const SkipStudy& study, std::span<const double> shares);

}  // namespace choir::compress
