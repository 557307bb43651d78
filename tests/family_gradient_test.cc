// Training passes of every family: the gradient of each tensor against differences of the loss along it.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <optional>

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

Outcome outcome_of(const Model& model, const FlatBatch& flat, Gradients& gradients,
                   model::Recompute recompute = model::Recompute::kNone) {
  base::Threads threads(2);
  model::TrainingActivations activations;
  activations.recompute = recompute;
  gradients.clear();
  const model::LossScales scales{1, 0.5f};
  const auto loss = forward_backward(model, flat.training(), scales, activations, gradients.tensors, threads);
  Outcome outcome{loss.cross_entropy + 0.5 * loss.balance, {}};
  for (const model::BlockActivations& block : activations.blocks) outcome.chosen.push_back(block.moe.routing.chosen);
  return outcome;
}

// A model whose tensors move, one at a time, and a batch that it is trained on.
class Trial {
 public:
  Trial(const Model& stored, uint64_t seed)
      : numbers_(stored),
        model_(stored.config(), numbers_.tensors()),
        flat_(random_batch({9, 7}, stored.config().vocab, seed)),
        gradients_(stored.config()),
        unused_(stored.config()),
        start_(outcome_of(model_, flat_, gradients_)) {}

  double square(size_t i) const {
    double sum = 0;
    for (const float v : gradients_.numbers(i)) sum += static_cast<double>(v) * static_cast<double>(v);
    return sum;
  }

  // (L(w + h g) - L(w - h g)) / 2h for the gradient g of tensor i, which should be |g|^2; h so that the loss moves by
  // about 0.005: far beyond the rounding of a float forward, and little beside the curvature. Nothing where the loss is
  // not smooth there: a token comes to another expert, or half the step says something else.
  std::optional<double> slope(size_t i) {
    const double step = std::min(0.005 / square(i), 0.01 / std::sqrt(square(i)));
    const auto whole = difference(i, step), half = difference(i, step / 2);
    if (!whole || !half || std::abs(*whole - *half) > 0.02 * std::abs(*whole)) return {};
    return half;
  }

 private:
  std::optional<double> difference(size_t i, double step) {
    const Outcome up = at(i, step), down = at(i, -step);
    if (up.chosen != start_.chosen || down.chosen != start_.chosen) return {};
    return (up.loss - down.loss) / (2 * step);
  }

  Outcome at(size_t i, double step) {
    const std::vector<float> before(numbers_[i].begin(), numbers_[i].end());
    for (size_t k = 0; k < before.size(); ++k)
      numbers_[i][k] = before[k] + static_cast<float>(step) * gradients_.numbers(i)[k];
    Outcome outcome = outcome_of(model_, flat_, unused_);
    std::ranges::copy(before, numbers_[i].begin());
    return outcome;
  }

  const Numbers numbers_;
  const Model model_;
  const FlatBatch flat_;
  Gradients gradients_, unused_;
  const Outcome start_;
};

// Every tensor on the first of some batches where its loss is smooth.
void check_gradients(const std::string& directory) {
  const Model stored(directory);
  const Numbers names(stored);
  std::vector<size_t> left;
  for (size_t i = 0; i < names.count(); ++i)
    if (names.info(i).role != model::TensorInfo::Role::kState) left.push_back(i);
  for (uint64_t seed = 3; seed < 40 && !left.empty(); ++seed) {
    Trial trial(stored, seed);
    std::erase_if(left, [&](size_t i) {
      const double square = trial.square(i);
      if (square < 1e-8) return false;  // an expert that no token comes to
      const auto slope = trial.slope(i);
      CAPTURE(names.info(i).name);
      if (slope) CHECK(*slope == doctest::Approx(square).epsilon(0.03));
      return slope.has_value();
    });
  }
  for (const size_t i : left) FAIL_CHECK("no batch moves " << names.info(i).name);
}

std::vector<fs::path> families() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(std::string(CHOIR_SOURCE_DIR) + "/tests/golden"))
    paths.push_back(entry.path());
  return paths;
}

TEST_CASE("gradients: blocks that are computed once more give the same bits in every family") {
  for (const fs::path& path : families()) {
    CAPTURE(path.filename().string());
    const Model stored(path);
    const Numbers numbers(stored);
    const Model model(stored.config(), numbers.tensors());
    const FlatBatch flat(random_batch({9, 7}, stored.config().vocab, 3));
    Gradients kept(stored.config()), again(stored.config());
    const Outcome one = outcome_of(model, flat, kept);
    const Outcome other = outcome_of(model, flat, again, model::Recompute::kBlock);
    CHECK(one.loss == other.loss);
    CHECK(one.chosen == other.chosen);
    for (size_t i = 0; i < kept.count(); ++i) {
      CAPTURE(kept.name(i));
      CHECK(std::ranges::equal(kept.numbers(i), again.numbers(i)));
    }
  }
}

TEST_CASE("gradients: every tensor of every family moves the loss as its gradient says") {
  for (const fs::path& path : families()) {
    CAPTURE(path.filename().string());
    check_gradients(path);
  }
}

}  // namespace
}  // namespace choir::tests
