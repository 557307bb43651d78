// Training passes of every family: the gradient of each tensor against differences of the loss along it.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "tests/flat_parameters.h"

namespace choir::tests {
namespace {

namespace fs = std::filesystem;
using model::Config;
using model::Model;
using tensor::Matrix;
using tensor::Weight;

// The numbers of a model as floats that may be changed.
class Numbers {
 public:
  explicit Numbers(const Model& model) : tensors_(model.tensors()) {
    model::visit_tensors(model.config(), tensors_, [&](const model::TensorInfo& info, Weight& weight) {
      tensor::Buffer<float>& own = owned_.emplace_back(weight.size());
      tensor::widen(weight, own.span());
      weight = Weight(own.data(), tensor::DType::kF32, info.rows, info.cols);
      infos_.push_back(info);
    });
    if (model.config().tied) tensors_.head = tensors_.embedding;
  }

  size_t count() const { return owned_.size(); }
  const model::TensorInfo& info(size_t i) const { return infos_[i]; }
  std::span<float> operator[](size_t i) const { return owned_[i].span(); }
  const model::ModelTensors<Weight>& tensors() const { return tensors_; }

 private:
  model::ModelTensors<Weight> tensors_;
  std::vector<tensor::Buffer<float>> owned_;
  std::vector<model::TensorInfo> infos_;
};

// The loss, and who computes which token in every layer.
struct Outcome {
  double loss;
  std::vector<std::vector<int32_t>> chosen;
};

Outcome outcome_of(const Model& model, const FlatBatch& flat, Gradients& gradients) {
  base::Threads threads(2);
  model::TrainingActivations activations;
  gradients.clear();
  const model::LossScales scales{1, 0.5f};
  const auto loss = forward_backward(model, flat.training(), scales, activations, gradients.tensors, threads);
  Outcome outcome{loss.cross_entropy + 0.5 * loss.balance, {}};
  for (const model::BlockActivations& block : activations.blocks) outcome.chosen.push_back(block.moe.routing.chosen);
  return outcome;
}

// (L(w + h g) - L(w - h g)) / 2h = |g|^2 for the gradient g of one tensor, h so that the loss moves by about 0.005, or
// by less where a token would come to another expert: far beyond the rounding of a float forward, and little beside the
// curvature.
void check_gradients(const std::string& directory) {
  const Model stored(directory);
  const Numbers numbers(stored);
  const Model model(stored.config(), numbers.tensors());
  const FlatBatch flat(random_batch({9, 7}, stored.config().vocab, 3));
  Gradients gradients(stored.config()), unused(stored.config());
  const Outcome start = outcome_of(model, flat, gradients);
  for (size_t i = 0; i < numbers.count(); ++i) {
    CAPTURE(numbers.info(i).name);
    if (numbers.info(i).role == model::TensorInfo::Role::kState) continue;
    const std::vector<float> g(gradients.numbers(i).begin(), gradients.numbers(i).end());
    double square = 0;
    for (const float v : g) square += static_cast<double>(v) * static_cast<double>(v);
    if (numbers.info(i).expert < 0) CHECK(square > 0);  // a token may choose no expert of this number
    if (square < 1e-10) continue;
    double step = std::min(0.005 / square, 0.01 / std::sqrt(square));
    const std::vector<float> before(numbers[i].begin(), numbers[i].end());
    const auto at = [&](double h) {
      for (size_t k = 0; k < g.size(); ++k) numbers[i][k] = before[k] + static_cast<float>(h) * g[k];
      return outcome_of(model, flat, unused);
    };
    Outcome up = at(step), down = at(-step);
    for (int halved = 0; halved < 5 && (up.chosen != start.chosen || down.chosen != start.chosen); ++halved) {
      step /= 2;
      up = at(step);
      down = at(-step);
    }
    const double difference = (up.loss - down.loss) / (2 * step);
    std::ranges::copy(before, numbers[i].begin());
    CHECK(difference == doctest::Approx(square).epsilon(0.03));
  }
}

TEST_CASE("gradients: every tensor of every family moves the loss as its gradient says") {
  for (const auto& entry : fs::directory_iterator(std::string(CHOIR_SOURCE_DIR) + "/tests/golden")) {
    const std::string name = entry.path().filename();
    CAPTURE(name);
    check_gradients(entry.path());
  }
}

}  // namespace
}  // namespace choir::tests
