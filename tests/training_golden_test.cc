// Ten training steps of the engine beside the same ten of the reference: double precision, complex-step gradients.
#include <doctest/doctest.h>

#include <numbers>

#include "kernels/adamw.h"
#include "tests/flat_parameters.h"
#include "tests/gradients/complex_step.h"

namespace choir::tests {
namespace {

using model::Config;

constexpr int kSteps = 10;
constexpr double kRate = 0.005, kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8, kDecay = 0.1, kMostNorm = 1;

double rate_of(int step) { return kRate * 0.5 * (1 + std::cos(std::numbers::pi * (step - 1) / kSteps)); }

double scale_of(double squares) { return std::min(1.0, kMostNorm / std::sqrt(squares)); }

Config golden_config() {
  Config config = small_config({{3, 2, 4, {}, {}}, {3, 2, 5, {}, {}}});
  config.width = 8;
  config.vocab = 11;
  config.attention = {.heads = 2, .kv_heads = 1, .head_width = 4, .window = 0};
  config.rope.theta = 100;
  config.load_weight = 0.1;
  return config;
}

// Which parameters are decayed: those of matrices.
std::vector<double> decay_of(const Config& config) {
  std::vector<double> decay;
  Gradients shapes(config);
  model::visit_tensors(config, shapes.tensors, [&](const model::TensorInfo& info, tensor::Matrix<float>&) {
    decay.insert(decay.end(), static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols),
                 info.vector ? 0 : kDecay);
  });
  return decay;
}

// AdamW as its paper writes it (arXiv 1711.05101, algorithm 2), after clipping by the global norm.
struct ReferenceTrainer {
  Config config;
  std::vector<double> parameters, first, second, decay;

  ReferenceTrainer(const model::Model& model)
      : config(model.config()),
        parameters(flat_parameters(model)),
        first(parameters.size()),
        second(parameters.size()),
        decay(decay_of(config)) {}

  void step(int t, std::vector<double> gradient) {
    double squares = 0;
    for (const double g : gradient) squares += g * g;
    for (size_t i = 0; i < gradient.size(); ++i) {
      const double g = gradient[i] * scale_of(squares);
      first[i] = kBeta1 * first[i] + (1 - kBeta1) * g;
      second[i] = kBeta2 * second[i] + (1 - kBeta2) * g * g;
      const double mean = first[i] / (1 - std::pow(kBeta1, t)), power = second[i] / (1 - std::pow(kBeta2, t));
      parameters[i] -= rate_of(t) * (mean / (std::sqrt(power) + kEpsilon) + decay[i] * parameters[i]);
    }
  }

  std::vector<double> run(const ReferenceBatch& batch) {
    std::vector<double> losses;
    for (int t = 1; t <= kSteps; ++t) {
      const auto outcome = ReferenceModel<double>(config, parameters).run(batch);
      losses.push_back(outcome.loss());
      REQUIRE(outcome.margin > 1e-3);  // a near-tie could route one way in float and another in double
      step(t, complex_step(parameters, [&](const std::vector<std::complex<double>>& z) {
             return ReferenceModel<std::complex<double>>(config, z).run(batch).loss();
           }));
    }
    return losses;
  }
};

struct EngineTrainer {
  const model::Model& model;
  base::Threads threads{2};
  Gradients gradients{model.config()}, first{model.config()}, second{model.config()};
  model::TrainingActivations activations{};

  void step(int t) {
    double squares = 0;
    for (size_t i = 0; i < gradients.count(); ++i) squares += kernels::sum_of_squares(gradients.numbers(i), threads);
    kernels::AdamwStep constants{.learning_rate = static_cast<float>(rate_of(t)),
                                 .beta1 = static_cast<float>(kBeta1),
                                 .beta2 = static_cast<float>(kBeta2),
                                 .epsilon = static_cast<float>(kEpsilon),
                                 .weight_decay = 0,
                                 .step = t,
                                 .gradient_scale = static_cast<float>(scale_of(squares))};
    model::ModelTensors<tensor::Weight> weights = model.tensors();
    size_t i = 0;
    model::visit_tensors(model.config(), weights, [&](const model::TensorInfo& info, tensor::Weight& weight) {
      constants.weight_decay = info.vector ? 0 : static_cast<float>(kDecay);
      const std::span<float> value{RandomModel::numbers(weight).data, weight.size()};
      kernels::adamw(constants, {value, first.numbers(i), second.numbers(i), gradients.numbers(i)}, threads);
      ++i;
    });
  }

  std::vector<double> run(const FlatBatch& batch) {
    std::vector<double> losses;
    for (int t = 1; t <= kSteps; ++t) {
      gradients.clear();
      const auto loss = forward_backward(model, batch.training(), {}, activations, gradients.tensors, threads);
      losses.push_back(loss.cross_entropy + loss.balance);
      step(t);
    }
    return losses;
  }
};

void check_run(const Config& config, uint64_t seed) {
  const RandomModel owner = random_model(config, seed);
  const ReferenceBatch batch = random_batch({6, 5}, config.vocab, seed);
  const std::vector<double> want = ReferenceTrainer(owner.model()).run(batch);
  EngineTrainer engine{owner.model()};
  const std::vector<double> got = engine.run(FlatBatch(batch));
  for (size_t t = 0; t < want.size(); ++t) {
    CAPTURE(t);
    CHECK(got[t] == doctest::Approx(want[t]).epsilon(1e-4));
    if (t > 0) CHECK(got[t] < got[t - 1]);
  }
  CHECK(got.back() < 0.9 * got.front());
}

TEST_CASE("training: the losses of ten steps are those of the reference") { check_run(golden_config(), 1); }

TEST_CASE("training: the same with one layer and a tied head") {
  Config config = golden_config();
  config.tied = true;
  config.layers.pop_back();
  check_run(config, 2);
}

}  // namespace
}  // namespace choir::tests
