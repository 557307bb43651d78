// Expert pruning by reconstruction loss, as published by Lu et al. (arXiv 2402.14800), evaluated exactly in one pass.
#pragma once

#include <optional>

#include "compress/calibration.h"

namespace choir::compress {

enum class Method {
  kExact,      // the set with the least loss; of equal ones the first in the order of the dropped sets
  kFrequency,  // the experts most often routed to; of equally frequent ones the lower number stays
  kRandom,     // by the seed
};

struct PruneOptions {
  std::vector<int> keep;  // experts that stay: one number for all layers, or one for each layer
  Method method = Method::kExact;
  bool progressive = false;  // a layer's input comes from the model whose earlier layers are already pruned
  bool all_losses = false;   // report the loss of every candidate
  uint64_t seed = 0;
  int64_t few_tokens = 16;  // an expert that is routed fewer is reported
};

struct SubsetLoss {
  std::vector<int> dropped;
  double loss;
};

struct LayerChoice {
  int layer = 0;
  std::vector<int> keep;           // ascending, numbers in the given model
  std::optional<double> loss;      // of this set; none where the layer is too large to be searched exactly
  int64_t candidates = 0;          // sets that were compared
  std::vector<SubsetLoss> losses;  // of all sets of this size, dropped sets in lexicographic order; if asked for
  std::vector<int64_t> coverage;   // [E] calibration tokens that the unpruned layer routed to each expert
  std::vector<int> rarely_seen;    // experts with fewer than few_tokens
  std::vector<int> super;          // super experts (C31) that are dropped
};

struct PruneResult {
  std::vector<LayerChoice> layers;
  model::Config config;  // of the pruned model; LayerConfig::kept counts in the first, never pruned one
  double seconds = 0;
};

// Whether every layer is small enough for the exact search, and its router one that the search knows.
bool exact_fits(const model::Config& config);

// Throws Error (usage) when the options do not suit the model, so that nobody waits for a calibration in vain.
void check_prune(const model::Config& config, const PruneOptions& options);

// The loss of a layer is the sum over batches of |Z - Z'|_F: Z is the output of the experts in the given model, Z' that
// with experts dropped, for the same input. Layers are searched one after the other, each batch carrying its residual
// stream along, so memory holds one layer's activations whatever the depth. A model that skips is measured without its
// thresholds and returned without them, for they belong to the experts they were measured with: calibrate skipping
// again afterwards. Bit for bit, the result does not depend on the number of threads. Throws Error (usage, input); a
// tensor that holds a NaN is named.
PruneResult prune(const Model& model, std::span<const CalibrationBatch> batches, const PruneOptions& options,
                  Threads& threads, const Progress& progress = {});

// `config` with keep[l], ascending, as the experts of layer l, and the list of their numbers in the first, never pruned
// model in every layer, unless no layer loses any.
model::Config pruned_config(model::Config config, const std::vector<std::vector<int>>& keep);

// The model that `result` describes; shares the tensors of `model`, which is the one given to prune().
Model pruned_model(const Model& model, const PruneResult& result);

}  // namespace choir::compress
