// Which experts each layer keeps: by the published search, or on records.
#pragma once

#include <optional>

#include "cli/options.h"
#include "compress/block_search.h"
#include "compress/choose_sets.h"
#include "compress/plan.h"
#include "compress/prune.h"
#include "compress/record_source.h"

namespace choir::cli {

// What every step of a pruning is given. Views: all must outlive it.
struct PruneWork {
  const Prune& o;
  const Common& common;
  const model::Model& model;
  std::span<const compress::CalibrationBatch> batches;  // empty where a finished capture is used alone
  base::Threads& threads;
  const compress::Progress& progress;               // stops the work when the user interrupts it
  std::span<const std::vector<float>> slopes = {};  // [L][N] of --objective gradient
};

struct PrunedLayer {
  std::vector<int> keep;
  std::optional<double> loss;
  std::optional<int64_t> candidates;
  std::vector<compress::SubsetLoss> losses;
  std::vector<int64_t> coverage;
  std::vector<int> pinned, super_dropped;  // super experts (C31)
  std::optional<compress::SetChoice> on_record;
};

struct Pruning {
  std::vector<PrunedLayer> layers;
  std::vector<std::vector<compress::PlanSet>> sets;  // of a plan, by rising count; the chosen one is among them
  std::string method, objective;                     // for people; what PlanSet::loss is
  bool nested = false;
  std::vector<compress::BlockChoice> blocks;  // of --block
  std::string calibration;                    // hash of the text
  int64_t tokens = 0;

  std::vector<std::vector<int>> keep() const;
  const std::vector<int>& in_block(int layer) const;  // what the block that the layer is in keeps of it
};

// `counts` [L].
Pruning prune_as_published(const PruneWork& work, const std::vector<int>& counts);

// `counts` is empty where a budget decides.
Pruning prune_on_records(const PruneWork& work, const compress::SetOptions& options, std::vector<int> counts,
                         compress::RecordSource& source);

}  // namespace choir::cli
