// One training pass: loss and the gradient of every parameter, explicit and in the reverse order of the forward.
#pragma once

#include "model/forward.h"

namespace choir::model {

// Buffers of a training pass; they grow as needed and are reused from step to step.
struct TrainingActivations {
  std::vector<BlockActivations> blocks;
  Buffer<float> h, normed;                                 // after the last block; normed for the head
  HeadActivations head;                                    // of that
  Buffer<float> logits, loss, log_sum;                     // (N,V), (N), (N)
  Buffer<float> soft_loss, soft_log_sum, teacher_log_sum;  // (N), with a teacher
  Buffer<float> dh, dnormed;                               // (N,D)
  Buffer<float> dbranch;                                   // (N,D) of what a half of a block adds, where that is scaled
  Buffer<float> dhidden;                                   // moe::MoeBackward::dhidden
  std::vector<Buffer<float>> dscore;  // [L] (N,E) of a layer's scores by the router behind it, where that reads them
};

// What a teacher says about the rows of a batch, and how much it is listened to.
struct Teaching {
  Matrix<const float> logits{};       // (N,V); none: the targets teach alone
  float weight = 0, temperature = 1;  // w, the targets weigh 1 - w; T
};

// Called from the last layer to the first with (N,D) the gradient of the residual stream behind it; valid during the
// call.
using GradientObserver = std::function<void(int layer, Matrix<const float> gradient)>;

struct TrainingBatch {
  Batch batch;                                           // without a cache
  std::span<const int32_t> targets;                      // the token that follows each row; -1: not counted
  RoutingOptions routing{.rule = moe::Rule::kTraining};  // balance losses are always on
  Teaching teaching = {};
  GradientObserver observer = {};
};

struct TrainingLoss {
  double cross_entropy = 0;  // nats per counted token
  double distillation = 0;   // T^2 KL(teacher || model) at that temperature, likewise; 0 without a teacher
  double balance = 0;        // sum over layers, weights included
  int tokens = 0;            // counted
};

// What the losses of a call weigh in the whole: that of the tokens is a mean over counted targets, balance over tokens.
struct LossScales {
  float tokens = 1, balance = 1;
};

// Adds the gradient of scales.tokens * ((1 - w) * cross_entropy + w * distillation) + scales.balance * balance to
// `gradients`, w = 0 without a teacher. The model's tensors must be float.
TrainingLoss forward_backward(const Model& model, const TrainingBatch& batch, const LossScales& scales,
                              TrainingActivations& activations, ModelTensors<Matrix<float>>& gradients,
                              Threads& threads);

// After forward_backward: adds what the routers' own numbers are updated from to sums[l], of Router::sums_size.
void observe(const Model& model, const TrainingBatch& batch, const TrainingActivations& activations,
             std::span<std::vector<float>> sums, Threads& threads);

}  // namespace choir::model
