#include "compress/sensitivity.h"

#include <cmath>
#include <string>

#include "model/backward.h"

namespace choir::compress {
namespace {

using model::ModelTensors;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// A backward needs numbers in float and somewhere to put the gradients of all of them.
struct FloatModel {
  std::vector<Buffer<float>> numbers, gradient;
  ModelTensors<Matrix<float>> gradients;
  std::optional<Model> model;

  explicit FloatModel(const Model& like) {
    std::vector<Weight> given;
    ModelTensors<Weight> tensors = like.tensors();
    model::visit_tensors(like.config(), tensors,
                         [&](const model::TensorInfo&, Weight& weight) { given.push_back(weight); });
    model::visit_tensors(like.config(), tensors, [&](const model::TensorInfo& info, Weight& weight) {
      Buffer<float>& own = numbers.emplace_back(weight.size());
      tensor::widen(given[numbers.size() - 1], own.span());
      weight = {own.data(), tensor::DType::kF32, info.rows, info.cols};
    });
    model::visit_tensors(like.config(), gradients, [&](const model::TensorInfo& info, Matrix<float>& own) {
      gradient.emplace_back(static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols));
      own = gradient.back().matrix(info.rows, info.cols);
    });
    model.emplace(like.config(), std::move(tensors));
  }
};

// factor: of the gradient.
void append_squares(Matrix<const float> gradient, double factor, std::vector<float>& squares) {
  for (int t = 0; t < gradient.rows; ++t) {
    double sum = 0;
    for (const float v : gradient.row(t)) sum += static_cast<double>(v) * v;
    squares.push_back(static_cast<float>(factor * factor * sum));
  }
}

}  // namespace

std::vector<std::vector<float>> loss_gradients(const Model& given, std::span<const CalibrationBatch> batches,
                                               Threads& threads, const Progress& progress) {
  check_batches(batches);
  FloatModel own(given.with_admission("all"));
  std::vector<std::vector<float>> squares(static_cast<size_t>(given.config().depth()));
  model::TrainingActivations activations;
  int done = 0;
  for (const CalibrationBatch& batch : batches) {
    const std::vector<kernels::Sequence> sequence{{0, batch.length, 0, 0}};
    for (int s = 0; s < batch.sequences; ++s) {
      const auto ids = std::span(batch.ids).subspan(static_cast<size_t>(s) * static_cast<size_t>(batch.length),
                                                    static_cast<size_t>(batch.length));
      std::vector<int32_t> targets(ids.begin() + 1, ids.end());
      targets.push_back(-1);
      model::TrainingBatch training{{ids, sequence}, targets, {.rule = moe::Rule::kDecode}};
      training.observer = [&](int l, Matrix<const float> gradient) {
        append_squares(gradient, given.config().residual_multiplier, squares[static_cast<size_t>(l)]);
      };
      const model::LossScales sum{static_cast<float>(std::max(1, batch.length - 1)), 0};
      model::forward_backward(*own.model, training, sum, activations, own.gradients, threads);
    }
    if (progress) progress(++done, static_cast<int>(batches.size()));
  }
  for (size_t l = 0; l < squares.size(); ++l)
    for (const float v : squares[l])
      if (!std::isfinite(v)) given.refuse_result("the gradient of the loss at layer " + std::to_string(l));
  return squares;
}

}  // namespace choir::compress
