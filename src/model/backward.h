// One training pass: loss and the gradient of every parameter, explicit and in the reverse order of the forward.
#pragma once

#include "model/forward.h"

namespace choir::model {

// Rows whose logits stand in memory. A multiple of the depth of 128 at which the sums of a gradient break anyway: that
// of the head has the bits that one product over all rows would have.
constexpr int kHeadRows = 512;

// Of R rows, kHeadRows at most: the logits, which become their own gradient, and what the losses keep of each row.
struct HeadRoom {
  Buffer<float> logits, loss, log_sum;                     // (R,V), (R), (R)
  Buffer<float> soft_loss, soft_log_sum, teacher_log_sum;  // (R), with a teacher
};

// What a block keeps of its forward until its backward: everything; or its input and its routing alone, and the rest is
// computed once more, which gives the same bits.
enum class Recompute { kNone, kBlock };

// Buffers of a training pass; they grow as needed and are reused from step to step.
struct TrainingActivations {
  Recompute recompute = Recompute::kNone;
  PassLists lists;
  std::vector<BlockActivations> blocks;
  BlockActivations shared;  // with kBlock: all else of the block at hand
  Buffer<float> h, normed;  // after the last block; normed for the head
  HeadActivations head;     // of that
  HeadRoom losses;
  Buffer<float> dh, dnormed;       // (N,D)
  Buffer<float> dbranch;           // (N,D) of what a half of a block adds, where that is scaled
  Buffer<float> dhidden;           // moe::MoeBackward::dhidden
  nn::AttentionScratch attention;  // one of these two
  nn::LatentScratch latent;
  std::vector<Buffer<float>> dscore;  // [L] (N,E) of a layer's scores by the router behind it, where that reads them
};

// What a teacher says about the rows of a batch, and how much it is listened to.
struct Teaching {
  // Logits (rows,V) of the rows [first, first + rows) of the batch, valid until the next call; none: the targets teach
  // alone.
  std::function<Matrix<const float>(int first, int rows)> logits{};
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
  std::span<std::vector<float>> sums = {};  // [L] added to: what the routers' own numbers are updated from, each of
                                            // Router::sums_size; empty: nobody asks
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

}  // namespace choir::model
