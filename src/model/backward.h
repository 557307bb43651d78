// One training pass: loss and the gradient of every parameter, explicit and in the reverse order of the forward.
#pragma once

#include "model/forward.h"

namespace choir::model {

// Buffers of a training pass; they grow as needed and are reused from step to step.
struct TrainingActivations {
  std::vector<BlockActivations> blocks;
  Buffer<float> h, normed, inverse_rms;  // after the last block; normed for the head
  Buffer<float> logits, loss, log_sum;   // (N,V), (N), (N)
  Buffer<float> dh, dnormed;             // (N,D)
  Buffer<float> dhidden;                 // moe::MoeBackward::dhidden
  std::vector<Buffer<float>> dscore;     // [L] (N,E) of a layer's scores by the router behind it, where that reads them
};

struct TrainingBatch {
  Batch batch;                                           // without a cache
  std::span<const int32_t> targets;                      // the token that follows each row; -1: not counted
  RoutingOptions routing{.rule = moe::Rule::kTraining};  // balance losses are always on
};

struct TrainingLoss {
  double cross_entropy = 0;  // nats per counted token
  double balance = 0;        // sum over layers, weights included
  int tokens = 0;            // counted
};

// What each loss of a call weighs in the whole: one is a mean over counted targets, the other over tokens.
struct LossScales {
  float cross_entropy = 1, balance = 1;
};

// Adds the gradient of scales.cross_entropy * cross_entropy + scales.balance * balance to `gradients`. The model's
// tensors must be float.
TrainingLoss forward_backward(const Model& model, const TrainingBatch& batch, const LossScales& scales,
                              TrainingActivations& activations, ModelTensors<Matrix<float>>& gradients,
                              Threads& threads);

// After forward_backward: adds what the routers' own numbers are updated from to sums[l], of Router::sums_size.
void observe(const Model& model, const TrainingBatch& batch, const TrainingActivations& activations,
             std::span<std::vector<float>> sums, Threads& threads);

}  // namespace choir::model
