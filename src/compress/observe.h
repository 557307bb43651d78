// The one pass over the calibration tokens: layer after layer, what its router compared and its experts answered.
#pragma once

#include "compress/calibration.h"
#include "compress/capture.h"
#include "compress/record.h"

namespace choir::compress {

struct ObserveOptions {
  int ranks = 0;        // of each token that are run and kept; 0: as many as every count to `least_keep` needs
  int least_keep = 0;   // in each layer; 0: a quarter of the experts, at least top-k
  int first_layer = 0;  // layers before it are passed through and not observed
};

// Ranks of a token of which a layer's record must tell: k survivors and the next one are among them but for about one
// token in 10^4, were the survivors drawn evenly; the popular ones stay, so really for fewer.
int ranks_for(int experts, int k, int least_keep);

// Throws Error (input) naming the first layer whose router experts cannot be taken from.
void check_observable(const Model& model);

// Ranks that the record of a layer tells of, under these options. The layer must be observable.
int observed_ranks(const Model& model, int layer, const ObserveOptions& options);

// What calibrating takes besides the model's own memory: about `fixed` bytes and, for each token, per_token.
struct CalibrationCost {
  int64_t fixed = 0, per_token = 0;
};
struct CalibrationNeeds {
  int streams = 1;           // (N,D) floats that are held at once
  bool all_records = false;  // of all layers; otherwise of one
  int batch_tokens = 0;      // of the largest batch
};
// Of records under these options, a search on the largest one among them.
CalibrationCost calibration_cost(const Model& model, const ObserveOptions& options, const CalibrationNeeds& needs);

// Takes one layer's record; the next layer is observed when it returns.
using TakeRecord = std::function<void(int layer, LayerRecord record)>;

// Memory holds the residual streams of all tokens and one layer's record. A model that skips is measured without its
// thresholds. Throws Error (input) for a router that experts cannot be taken from, naming the layer.
void observe(const Model& model, std::span<const CalibrationBatch> batches, const ObserveOptions& options,
             const TakeRecord& take, Threads& threads, const Progress& progress = {});

// Adds the tokens x (N,D), on their way from the stream `middle` (N,D), to the record; returns z, the layer's output.
// For observe() and for tests that have no model.
class LayerObserver {
 public:
  LayerObserver(const LayerView& layer, int ranks, LayerRecord& record, Threads& threads);

  void expect(int tokens);  // makes room for so many; optional
  void add(Matrix<const float> x, Matrix<const float> middle, Matrix<float> z);
  void end_batch();
  void finish();  // turns sums into means

 private:
  void add_products(int first, int tokens);
  void add_choices();
  void add_streams(Matrix<const float> middle, Matrix<const float> z);
  void add_means();

  const LayerView layer_;
  LayerRecord& record_;
  Threads& threads_;
  Capture capture_;
  tensor::Buffer<float> answers_, products_;
  std::vector<double> squared_gain_;  // [E] sum a_tj^2
};

}  // namespace choir::compress
