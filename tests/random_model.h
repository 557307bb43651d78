// A small transformer with random weights, made in memory: for tests that need a model and no file.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "model/forward.h"
#include "tensor/blocks.h"

namespace choir::tests {

// Owns the numbers that model() looks into. Movable: the numbers stay where they are.
class RandomModel {
 public:
  // Norms are near 1, everything else is normal with deviation scale / sqrt(inputs): activations of the order of 1,
  // logits that differ clearly from token to token, and routers that decide.
  RandomModel(const model::Config& config, uint64_t seed, float scale = 1.5f)
      : tensors_(make(config, seed, scale)), model_(config, tensors_) {}

  const model::Model& model() const { return model_; }

  // The numbers of a tensor of model(), to be changed between calls.
  static tensor::Matrix<float> numbers(const tensor::Weight& weight) {
    return {static_cast<float*>(const_cast<void*>(weight.data)), weight.rows, weight.cols};
  }

 private:
  model::ModelTensors<tensor::Weight> make(const model::Config& config, uint64_t seed, float scale) {
    base::Rng rng(seed);
    model::ModelTensors<tensor::Weight> tensors;
    model::visit_tensors(config, tensors, [&](const model::TensorInfo& info, tensor::Weight& weight) {
      const size_t size = static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols);
      buffers_.emplace_back(size);
      const float deviation = info.vector ? 0.1f : scale / std::sqrt(static_cast<float>(info.cols));
      for (float& v : buffers_.back().span()) v = (info.vector ? 1.0f : 0.0f) + deviation * rng.normal();
      weight = tensor::Matrix<const float>(buffers_.back().data(), info.rows, info.cols);
    });
    return tensors;
  }

  std::vector<tensor::Buffer<float>> buffers_;
  model::ModelTensors<tensor::Weight> tensors_;
  model::Model model_;
};

// The matrices of another model in another number format, where their rows are whole blocks of it. Owns the numbers.
class TypedModel {
 public:
  TypedModel(const model::Model& from, tensor::DType type) : model_(from.config(), make(from, type)) {}
  const model::Model& model() const { return model_; }

 private:
  model::ModelTensors<tensor::Weight> make(const model::Model& from, tensor::DType type) {
    model::ModelTensors<tensor::Weight> tensors = from.tensors();
    const int block = tensor::is_blocked(type) ? static_cast<int>(tensor::block_of(type).numbers) : 1;
    model::visit_tensors(from.config(), tensors, [&](const model::TensorInfo& info, tensor::Weight& weight) {
      if (info.vector || info.role != model::TensorInfo::Role::kWeight || info.cols % block != 0) return;
      buffers_.emplace_back(static_cast<size_t>(info.rows) * tensor::bytes_of(type, static_cast<size_t>(info.cols)));
      tensor::narrow(tensor::as_vector(weight), type, buffers_.back().span());
      weight = {buffers_.back().data(), type, info.rows, info.cols};
    });
    return tensors;
  }

  std::vector<tensor::Buffer<std::byte>> buffers_;
  model::Model model_;
};

inline RandomModel random_model(const model::Config& config, uint64_t seed) { return RandomModel(config, seed); }

// Grouped heads and experts of layer after layer: {experts, top_k, expert_width}. Change what a test wants otherwise.
inline model::Config small_config(std::vector<model::LayerConfig> layers = {{4, 2, 24, {}, {}}, {6, 2, 40, {}, {}}}) {
  model::Config config;
  config.family = "mixtral";
  config.width = 32;
  config.vocab = 67;
  config.attention = {.heads = 4, .kv_heads = 2, .head_width = 8, .window = 0};
  config.max_positions = 128;
  config.rope.theta = 10000;
  config.norm_epsilon = 1e-5;
  config.layers = std::move(layers);
  return config;
}

inline std::vector<int32_t> random_ids(int count, int vocab, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
  return ids;
}

// Logits [N*V] of all rows of sequences of equal lengths, computed together without a cache.
inline std::vector<float> all_logits(const model::Model& model, std::span<const int32_t> ids, int sequences,
                                     int thread_count = 1) {
  base::Threads threads(thread_count);
  const int rows = static_cast<int>(ids.size()), length = rows / sequences, vocab = model.config().vocab;
  std::vector<kernels::Sequence> places;
  for (int s = 0; s < sequences; ++s) places.push_back({s * length, length, 0, s * length});
  std::vector<float> logits(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
  model::Scratch scratch;
  model::forward(model, {ids, places}, {}, scratch, {logits.data(), rows, vocab}, threads);
  return logits;
}

}  // namespace choir::tests
