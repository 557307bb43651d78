// The models between which a user chooses: fewer experts at several ratios, fewer evaluations at several shares, all
// from one capture.
#pragma once

#include <memory>
#include <string>

#include "compress/budget.h"
#include "compress/capture_directory.h"
#include "compress/search.h"
#include "compress/skip_budget.h"

namespace choir::compress {

// The record of a layer, as often as it is asked for.
using LoadRecord = std::function<std::shared_ptr<const LayerRecord>(int layer)>;

// Of records in memory, or on disk, one at a time; what they come from must outlive it.
LoadRecord records_in(std::span<const LayerRecord> records);
LoadRecord records_in(const CaptureDirectory& capture);

inline constexpr double kKeepRatios[] = {7 / 8., 3 / 4., 5 / 8., 1 / 2., 3 / 8., 1 / 4.};
inline constexpr double kSkipShares[] = {0.9, 0.8, 0.7, 0.6, 0.5};

struct FrontierOptions {
  double least = 0.25;  // the share of its experts that every layer keeps, at least; the records must tell of it
  Objective objective = Objective::kStream;
  SearchOptions search = {};  // restarts and seed; the seed is also that of the random baseline
};

// The kept experts of one method at one ratio.
struct KeptChoice {
  std::string method;  // search: layers share the experts (C34); uniform: each searched at the ratio; and the scores
                       // reap, frequency, random, of which each layer keeps the best
  double ratio = 1;    // that was asked for
  std::vector<std::vector<int>> keep = {};  // [L] ascending
  double loss = 0;                          // sum of the layers' (C33) losses beside their streams
};

// The fewest experts that each layer's rule allows, at least this share of them. Throws Error (input) for a router that
// experts cannot be taken from.
std::vector<int> least_counts(const Model& model, double share);

// What each layer loses by keeping fewer experts. Holds no record. Not thread-safe.
class PruningFrontier {
 public:
  // `bytes` [L] of one expert of each layer. Eliminates and scores in every layer: reads each record once. Throws Error
  // (usage) for a share out of range, (input) for a record that is not finite.
  PruningFrontier(LoadRecord load, std::vector<int64_t> bytes, const FrontierOptions& options, Threads& threads,
                  const Progress& progress = {});

  // For each layer the most experts that its rule allows, at most `ratio` of them; nothing where one layer allows none
  // above its least share.
  std::optional<std::vector<int>> counts_at(double ratio) const;

  // The counts with the least sum of losses whose experts take `total` bytes at most, where one of layer l takes
  // bytes[l]. Throws Error (usage) as allocate() does.
  std::vector<int> counts_within(int64_t total, std::span<const int64_t> bytes) const;

  // The best sets of these counts, found by swaps. Reads each record once.
  std::vector<std::vector<int>> searched(const std::vector<int>& counts, const Progress& progress = {}) const;

  // For each ratio that is allowed, that is below 1 and whose counts no earlier one has, every method, the baselines
  // always; no method's experts take more bytes than the uniform counts. Reads each record once.
  std::vector<KeptChoice> choices(std::span<const double> ratios, const Progress& progress = {}) const;

 private:
  struct Layer {
    LayerCurve curve;
    Elimination elimination;
    std::vector<std::vector<double>> score;  // of each baseline
    double energy = 1;                       // what a loss is divided by
  };
  struct Wanted {
    KeptChoice choice;
    std::vector<int> counts;
    int baseline = -1;  // which; -1: searched
  };
  void settle(int layer, std::vector<Wanted>& wanted) const;
  void settle_all(std::vector<Wanted>& wanted, const Progress& progress) const;

  LoadRecord load_;
  FrontierOptions options_;
  Threads& threads_;
  std::vector<Layer> layers_;
};

// Policies of skipping for each share that is allowed, from the records of `model` with every expert at work.
struct SkippingChoice {
  double share = 1;  // of the evaluations, asked for
  BudgetResult policy;
};
std::vector<SkippingChoice> skipping_choices(const SkipStudy& study, std::span<const double> shares);

}  // namespace choir::compress
