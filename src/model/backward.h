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
};

struct TrainingBatch {
  Batch batch;                       // without a cache
  std::span<const int32_t> targets;  // the token that follows each row; -1: not counted
};

struct TrainingLoss {
  double cross_entropy = 0;  // nats per counted token
  double balance = 0;        // sum over layers, weights included
  int tokens = 0;            // counted
};

// Adds the gradient of (cross_entropy + balance) * scale to `gradients`. The model's tensors must be float.
TrainingLoss forward_backward(const Model& model, const TrainingBatch& batch, float scale,
                              TrainingActivations& activations, ModelTensors<Matrix<float>>& gradients,
                              Threads& threads);

}  // namespace choir::model
