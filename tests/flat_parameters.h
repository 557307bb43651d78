// The tensors of a model as one flat list, in the order of visit_tensors: what complex_step and the reference model
// take.
#pragma once

#include <string>
#include <vector>

#include "model/backward.h"
#include "tests/random_model.h"
#include "tests/reference_model.h"

namespace choir::tests {

inline std::vector<double> flat_parameters(const model::Model& model) {
  std::vector<double> flat;
  model::ModelTensors<tensor::Weight> tensors = model.tensors();
  model::visit_tensors(model.config(), tensors, [&](const model::TensorInfo&, tensor::Weight& weight) {
    for (const float v : tensor::as_vector(weight)) flat.push_back(static_cast<double>(v));
  });
  return flat;
}

// The largest difference as a share of the largest expected number.
template <class Got>
double error(const double* expected, const Got& got) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = std::abs(expected[i] - static_cast<double>(got[i]));
    difference = std::isnan(d) ? HUGE_VAL : std::max(difference, d);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return largest > 0 ? difference / largest : difference;
}

// Zeroed gradients of every tensor.
class Gradients {
 public:
  explicit Gradients(const model::Config& config) {
    model::visit_tensors(config, tensors, [&](const model::TensorInfo& info, tensor::Matrix<float>& matrix) {
      buffers_.emplace_back(static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols));
      matrix = buffers_.back().matrix(info.rows, info.cols);
      names_.push_back(info.name);
    });
  }

  void clear() {
    for (tensor::Buffer<float>& buffer : buffers_) buffer.clear();
  }
  size_t count() const { return buffers_.size(); }
  const std::string& name(size_t i) const { return names_[i]; }
  std::span<float> numbers(size_t i) const { return buffers_[i].span(); }

  model::ModelTensors<tensor::Matrix<float>> tensors;

 private:
  std::vector<tensor::Buffer<float>> buffers_;
  std::vector<std::string> names_;
};

// A reference batch as the engine takes it.
struct FlatBatch {
  std::vector<int32_t> ids, targets;
  std::vector<model::Sequence> sequences;

  explicit FlatBatch(const ReferenceBatch& batch) {
    for (size_t s = 0; s < batch.ids.size(); ++s) {
      const int row = static_cast<int>(ids.size());
      sequences.push_back({row, static_cast<int>(batch.ids[s].size()), 0, row});
      ids.insert(ids.end(), batch.ids[s].begin(), batch.ids[s].end());
      targets.insert(targets.end(), batch.targets[s].begin(), batch.targets[s].end());
    }
  }
  model::TrainingBatch training() const { return {{ids, sequences}, targets}; }
};

// What forward_backward gives the gradient of.
template <class S>
S scaled_loss(const ReferenceOutcome<S>& outcome, const model::LossScales& scales) {
  return static_cast<double>(scales.tokens) * outcome.cross_entropy +
         static_cast<double>(scales.balance) * outcome.balance;
}

// Sequences of random ids that predict their next token; the last target of the first is not counted.
inline ReferenceBatch random_batch(const std::vector<int>& lengths, int vocab, uint64_t seed) {
  ReferenceBatch batch;
  for (const int length : lengths) {
    std::vector<int32_t> ids = random_ids(length + 1, vocab, seed++);
    batch.targets.emplace_back(ids.begin() + 1, ids.end());
    ids.pop_back();
    batch.ids.push_back(ids);
  }
  batch.targets[0].back() = -1;
  return batch;
}

}  // namespace choir::tests
