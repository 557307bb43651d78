// Calibration of dynamic expert skipping (arXiv 2402.14800, section 3.3).
#pragma once

#include "compress/calibration.h"

namespace choir::compress {

struct LayerSkip {
  int layer = 0;
  float beta = 0;  // median of w_2 / w_1 over all calibration tokens; of an even number the mean of the middle two
  double mean_ratio = 0;     // of the same ratios
  double skipped_share = 0;  // of the calibration tokens: w_2 < beta w_1, strictly
};

struct SkipResult {
  std::vector<LayerSkip> layers;
  model::Config config;  // the given one with the thresholds
};

// Measures with every expert at work: thresholds that the model already has are replaced, and do not act here. w_1 and
// w_2 are the router weights of a token's two best experts. Throws Error (usage) where a layer is not top-2, (input)
// for bad batches or a model whose ratios are not numbers.
SkipResult calibrate_skipping(const Model& model, std::span<const CalibrationBatch> batches, Threads& threads,
                              const Progress& progress = {});

// The model that `result` describes; shares the tensors of `model`.
Model skipping_model(const Model& model, const SkipResult& result);

}  // namespace choir::compress
