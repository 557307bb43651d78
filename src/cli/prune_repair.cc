#include "cli/prune_repair.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "cli/prune_call.h"
#include "compress/neurons.h"
#include "compress/pad.h"

namespace choir::cli {
namespace {

using compress::CalibrationBatch;

constexpr int kMostJudged = 7;  // models: the pruned one, and one for each repair

// Takes the last sequence of the last batch away; returns their ids.
std::vector<int32_t> last_sequence(std::vector<CalibrationBatch>& batches) {
  CalibrationBatch& last = batches.back();
  const auto begin = last.ids.end() - last.length;
  std::vector<int32_t> ids(begin, last.ids.end());
  last.ids.erase(begin, last.ids.end());
  if (--last.sequences == 0) batches.pop_back();
  return ids;
}

}  // namespace

int64_t sequences_in(const std::vector<CalibrationBatch>& batches) {
  int64_t count = 0;
  for (const CalibrationBatch& batch : batches) count += batch.sequences;
  return count;
}

Split hold_out(std::vector<CalibrationBatch> batches, double share) {
  Split split{std::move(batches), {}};
  if (share <= 0) return split;
  const int64_t all = sequences_in(split.batches);
  const int64_t held = std::max<int64_t>(1, std::llround(share * static_cast<double>(all)));
  if (held >= all)
    base::input_error("too few sequences to hold " + std::to_string(held) + " out: " + std::to_string(all),
                      "calibration", "give more text, or shorter sequences");
  for (int64_t i = 0; i < held; ++i) split.held_out.push_back({last_sequence(split.batches), 0});
  return split;
}

std::vector<CalibrationBatch> at_most(std::vector<CalibrationBatch> batches, int64_t tokens) {
  int64_t have = 0;
  for (const CalibrationBatch& batch : batches) have += static_cast<int64_t>(batch.ids.size());
  if (tokens <= 0) return batches;
  if (!batches.empty() && tokens < batches.front().length)
    base::usage_error(
        "no sequence fits into " + std::to_string(tokens) + " tokens", "--capture-tokens",
        "the first one has " + std::to_string(batches.front().length) + "; raise it, or shorten --length");
  while (have > tokens) have -= static_cast<int64_t>(last_sequence(batches).size());
  return batches;
}

std::vector<CalibrationBatch> first_sequences(std::vector<CalibrationBatch> batches, int64_t count) {
  for (int64_t have = sequences_in(batches); have > count; --have) last_sequence(batches);
  return batches;
}

namespace {

Repaired repaired(const PruneWork& work, const compress::RepairCalibration& calibration,
                  std::span<const eval::Document> held_out) {
  const model::Model full = work.model.with_admission("all");
  int judged = 0;
  const compress::Judge judge = [&](const model::Model& candidate) {
    work.progress(++judged, kMostJudged);
    return eval::distance(full, candidate, held_out, {}, work.threads).kl_mean;
  };
  compress::RepairResult result = compress::repair(calibration, repair_options(work.o), judge, work.threads);
  for (const compress::RepairStep& step : result.steps)
    fmt::print(stderr, "{:8} held-out KL {:.6f} -> {:.6f}{}\n", step.name, step.before, step.after,
               step.name == "pruned" ? ""
               : step.kept           ? "  kept"
                                     : "  left out");
  return {std::move(result.model), std::move(result.steps)};
}

}  // namespace

Repaired smaller_model(const PruneWork& work, const Pruning& pruning, compress::RecordSource& source,
                       std::span<const eval::Document> held_out) {
  const std::vector<std::vector<int>> keep = pruning.keep();
  Repaired result{compress::planned_model(work.model, keep)};
  compress::NeuronLists neurons;
  if (work.o.neurons > 0)
    neurons = compress::find_neurons(work.model, result.model, work.batches, {.keep = work.o.neurons}, work.threads,
                                     work.progress);
  if (work.o.repair.empty())
    result.model = compress::with_neurons(result.model, neurons);
  else
    result = repaired(work, {work.model, keep, source.all(), work.batches, neurons}, held_out);
  for (const auto& layer : neurons) {
    result.widths.emplace_back();
    for (const std::vector<int>& kept : layer) result.widths.back().push_back(static_cast<int>(kept.size()));
  }
  if (!work.o.pad) return result;
  compress::Padded padded = compress::padded(work.model, result.model, keep);
  result.model = std::move(padded.model);
  result.padding = std::move(padded.experts);
  return result;
}

}  // namespace choir::cli
