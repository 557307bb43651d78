// Repairs of a pruned model, tried in turn: each stays where the judge says that the model got better.
#pragma once

#include "compress/gain_policy.h"
#include "compress/neurons.h"
#include "compress/ridge.h"

namespace choir::compress {

// Less is better: held-out divergence from the full model, say.
using Judge = std::function<double(const Model&)>;

struct RepairOptions {
  double scalar_lambda = 1e-3;  // refit_scales
  RidgeOptions ridge;
  std::vector<std::string> only;  // of the repairs below; empty: all
};

// Throws Error (usage) for a name that is none.
void check_repairs(const RepairOptions& options);

struct RepairStep {
  std::string name;      // "pruned", "drop", "novice", "merge", "scalar", "ridge", "ridge alone"
  double before, after;  // the judge's value of the model so far, and with the repair
  bool kept;             // after < before
};

struct RepairResult {
  Model model;
  std::vector<RepairStep> steps;  // the first is the pruned model by itself, kept in any case
};

// What is known of the layers of the full model, of which keep[l] stay; records come from observe() over `batches`.
struct RepairCalibration {
  const Model& full;
  std::span<const std::vector<int>> keep;  // [L] ascending
  std::span<const LayerRecord> records;    // [L]
  std::span<const CalibrationBatch> batches;
  // [L][experts that stay] the neurons that stay too; empty: all.
  std::span<const std::vector<std::vector<int>>> neurons = {};
};

// In this order, from re-routing on:
//   drop     layers that lose less, by their records, when the gains stay (C50)
//   novice   all layers whose experts are not in groups
//   merge    dropped experts into kept ones, with a ridge refit of their down projections (C55)
//   scalar   a constant for each kept expert, unless novices are there or the experts were merged (C52)
//   ridge    down projections anew, unless merging has brought it (C54)
//   ridge alone   where another repair stays: the same on the re-routed model, in place of all of them
// Where neurons are cut, merging and constants are not tried: records know whole experts alone.
// A repair that cannot change the model, or that experts are too wide for, is not tried. Memory: the residual streams
// of all tokens, one layer's inputs and outputs. Skipping is taken from the model. Throws Error (usage) as
// check_repairs does.
RepairResult repair(const RepairCalibration& calibration, const RepairOptions& options, const Judge& judge,
                    Threads& threads);

}  // namespace choir::compress
