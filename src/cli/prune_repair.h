// Text that measures a smaller model and never calibrated it, and repairs that it judges.
#pragma once

#include "cli/prune_choose.h"
#include "compress/repair.h"
#include "eval/distance.h"

namespace choir::cli {

// Calibration sequences, and others from their end that are held out.
struct Split {
  std::vector<compress::CalibrationBatch> batches;
  std::vector<eval::Document> held_out;  // one for each sequence; empty where nothing is held out
};

// `share` of the sequences, rounded, at least one where the share is above 0, are taken from the end. Throws Error
// (input) when none would be left to calibrate on.
Split hold_out(std::vector<compress::CalibrationBatch> batches, double share);

// The first batches of at most `tokens` tokens, in whole sequences; 0: all. Throws Error (usage) when not one fits.
std::vector<compress::CalibrationBatch> at_most(std::vector<compress::CalibrationBatch> batches, int64_t tokens);

int64_t sequences_in(const std::vector<compress::CalibrationBatch>& batches);

// The first so many sequences.
std::vector<compress::CalibrationBatch> first_sequences(std::vector<compress::CalibrationBatch> batches, int64_t count);

struct Repaired {
  model::Model model;
  std::vector<compress::RepairStep> steps = {};  // empty: no repair was asked for
  std::vector<std::vector<int>> widths = {};     // [L][experts that stay] of --neurons
  std::vector<std::vector<int>> padding = {};    // [L] experts that --pad put back
};

// The full model with what the pruning keeps, without the neurons that go, repaired if --repair is given: each repair
// stays where it lowers the mean KL from the full model, all of whose experts are at work, on what is held out. Padded
// at last.
Repaired smaller_model(const PruneWork& work, const Pruning& pruning, compress::RecordSource& source,
                       std::span<const eval::Document> held_out);

}  // namespace choir::cli
