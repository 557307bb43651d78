#include "cli/prune_choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cli/prune_call.h"
#include "compress/fingerprint.h"
#include "compress/select.h"

namespace choir::cli {
namespace {

using compress::LayerCurve;
using compress::LayerRecord;
using compress::ScoredSet;

std::string objective_name(compress::Objective objective) {
  switch (objective) {
    case compress::Objective::kOutput: return "mean over tokens of the squared error beside that of the output";
    case compress::Objective::kStream: return "mean over tokens of the squared error beside that of the stream";
    case compress::Objective::kGradient:
      return "mean over tokens of the squared error times the loss's squared gradient";
    case compress::Objective::kPublished: break;
  }
  return "sum of squared errors over that of the output";
}

int64_t tokens_of(std::span<const compress::CalibrationBatch> batches) {
  int64_t tokens = 0;
  for (const compress::CalibrationBatch& batch : batches) tokens += static_cast<int64_t>(batch.ids.size());
  return tokens;
}

// The counts of one ranking over all layers.
std::vector<int> ranked_counts(const PruneWork& work, const compress::SetOptions& options,
                               compress::RecordSource& source) {
  std::vector<compress::ScoredLayer> layers;
  source.each([&](int l, const LayerRecord& record) {
    layers.push_back({record.rule, compress::score_experts(record, options.criterion, l, options.seed), record.pinned});
    work.progress(l + 1, work.model.config().depth());
  });
  return compress::counts_over_layers(layers, work.o.keep_total, work.o.slack);
}

// The counts that the budget gives, by the layers' own curves.
std::vector<int> allocated(const PruneWork& work, const compress::SetOptions& options, compress::RecordSource& source) {
  const compress::Budget budget = budget_of(work.o, work.model);
  std::vector<LayerCurve> curves;
  source.each([&](int l, const LayerRecord& record) {
    curves.push_back(compress::curve_of(
        record, compress::nested_sets(record, l, compress::least_served(record), options, work.threads)));
    curves.back().bytes = compress::expert_bytes(work.model, l);
    work.progress(l + 1, work.model.config().depth());
  });
  return work.o.uniform ? compress::allocate_uniform(curves, budget) : compress::allocate(curves, budget);
}

// What blocks of layers choose among the best few sets of each.
std::vector<compress::BlockChoice> chosen_in_blocks(const PruneWork& work, const compress::SetOptions& options,
                                                    const std::vector<int>& counts, compress::RecordSource& source) {
  std::vector<std::vector<ScoredSet>> candidates;
  source.each([&](int l, const LayerRecord& record) {
    candidates.push_back(
        compress::best_sets(record, l, counts[static_cast<size_t>(l)], work.o.candidates, options, work.threads));
    work.progress(l + 1, work.model.config().depth());
  });
  return compress::choose_in_blocks(work.model, work.batches, candidates,
                                    {work.o.block, options.objective, work.slopes}, work.threads, work.progress);
}

// The sets of a plan: all counts of a nested method, else the chosen one.
std::vector<compress::PlanSet> sets_of(const PruneWork& work, const compress::SetOptions& options, int l,
                                       const LayerRecord& record, const compress::SetChoice& choice) {
  if (!options.nested() || work.o.save_plan.empty()) return {{choice.keep, choice.relative}};
  const int least = std::min(compress::least_served(record), static_cast<int>(choice.keep.size()));
  std::vector<compress::PlanSet> sets;
  for (const ScoredSet& set : compress::nested_sets(record, l, least, options, work.threads))
    sets.push_back({set.kept, set.loss});
  return sets;
}

}  // namespace

std::vector<std::vector<int>> Pruning::keep() const {
  std::vector<std::vector<int>> lists;
  for (const PrunedLayer& layer : layers) lists.push_back(layer.keep);
  return lists;
}

const std::vector<int>& Pruning::in_block(int layer) const {
  const compress::BlockChoice& block = blocks[static_cast<size_t>(layer / blocks.front().layers)];
  return block.keep[static_cast<size_t>(layer - block.first)];
}

Pruning prune_as_published(const PruneWork& work, const std::vector<int>& counts) {
  const compress::PruneOptions options = published_options(work.o, work.common, work.model.config(), counts);
  compress::PruneResult result = compress::prune(work.model, work.batches, options, work.threads, work.progress);
  Pruning pruning;
  pruning.method = work.o.method.empty() ? "exact" : work.o.method;
  pruning.objective = "sum over batches of the norm of the error";
  pruning.calibration = compress::calibration_hash(work.batches);
  pruning.tokens = tokens_of(work.batches);
  for (compress::LayerChoice& layer : result.layers) {
    pruning.sets.push_back({{layer.keep, layer.loss}});
    pruning.layers.push_back(
        {layer.keep, layer.loss, layer.candidates, std::move(layer.losses), layer.coverage, {}, layer.super, {}});
  }
  return pruning;
}

Pruning prune_on_records(const PruneWork& work, const compress::SetOptions& options, std::vector<int> counts,
                         compress::RecordSource& source) {
  if (!source.capture() && (counts.empty() || work.o.block > 0)) source.all();  // one pass, for all that follows
  if (counts.empty()) {
    counts = work.o.share == "score" ? ranked_counts(work, options, source) : allocated(work, options, source);
    fmt::print(stderr, "the budget keeps {}\n", told(counts, work.model.config()));
  }
  Pruning pruning;
  pruning.method = work.o.method;
  if (pruning.method.empty()) pruning.method = options.method == compress::SetMethod::kExact ? "exact" : "search";
  pruning.objective = objective_name(options.objective);
  pruning.nested = options.nested() && !work.o.save_plan.empty();
  if (work.o.block > 0) pruning.blocks = chosen_in_blocks(work, options, counts, source);
  source.each([&](int l, const LayerRecord& record) {
    compress::SetChoice choice =
        work.o.block > 0 ? compress::measure_set(record, l, pruning.in_block(l), options, work.threads)
                         : compress::choose_set(record, l, counts[static_cast<size_t>(l)], options, work.threads);
    pruning.sets.push_back(sets_of(work, options, l, record, choice));
    pruning.tokens = record.tokens();
    pruning.layers.push_back({choice.keep,
                              choice.loss,
                              choice.candidates,
                              {},
                              record.coverage,
                              record.pinned,
                              choice.super,
                              std::move(choice)});
    work.progress(l + 1, work.model.config().depth());
  });
  pruning.calibration =
      source.capture() ? source.capture()->info().calibration : compress::calibration_hash(work.batches);
  return pruning;
}

}  // namespace choir::cli
