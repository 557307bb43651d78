// The numbers that training changes: parameters, gradients and the optimizer's moments.
#pragma once

#include <optional>
#include <vector>

#include "base/rng.h"
#include "base/threads.h"
#include "model/tensors.h"
#include "tensor/buffer.h"
#include "train/config.h"
#include "train/moments.h"

namespace choir::train {

using model::Config;
using model::ModelTensors;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// Owns a block of each; the views into them die with it. Tensors lie in the order of visit_tensors.
class Parameters {
 public:
  explicit Parameters(const Config& config, tensor::DType moments = tensor::DType::kF32);

  ModelTensors<Weight> weights() const;
  ModelTensors<Matrix<float>> numbers();  // the values, to be changed
  ModelTensors<Matrix<float>>& gradients() { return gradients_; }
  const Buffer<float>& values() const { return values_; }
  const Moments& moments() const { return moments_; }

  // Normal with deviation 0.02, the two projections onto the residual stream with 0.02 / sqrt(2 L) (GPT-2), norms 1,
  // gates and routers' own numbers as they ask.
  void initialize(uint64_t seed);

  // The numbers of a layer's router that are updated without a gradient; empty where it has none.
  std::span<float> state(int layer) const;

  // Tensors whose name matches a pattern (pattern.h) are not changed any more: neither values, nor moments, nor the
  // numbers of a router. Throws Error (input) that names a pattern without a match.
  void freeze(const std::vector<std::string>& patterns);
  bool state_frozen(int layer) const;

  void clear_gradients() { gradient_.clear(); }
  void drop_frozen_gradients();  // they are no part of the norm
  double gradient_norm(base::Threads& threads) const;
  // Of all tensors of a layer's gate; none where it has none.
  std::optional<double> gate_gradient_norm(int layer, base::Threads& threads) const;

  // One AdamW step; vectors are not decayed, state is left alone. gradient_scale multiplies the gradient first.
  struct Step {
    double learning_rate, gradient_scale;
    int number;  // 1, 2, ...
  };
  void update(const TrainConfig& config, const Step& step, base::Threads& threads);

 private:
  struct Place {
    model::TensorInfo info;
    size_t begin, size;
    bool frozen = false;
  };

  ModelTensors<Matrix<float>> views(const Buffer<float>& block) const;

  Config config_;
  std::vector<Place> places_;
  Buffer<float> values_, gradient_;
  Moments moments_;
  ModelTensors<Matrix<float>> gradients_;
};

}  // namespace choir::train
