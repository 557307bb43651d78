// The loss, the logits and every gradient of a whole model against the reference and its complex step.
#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/soft_cross_entropy.h"
#include "tests/flat_parameters.h"
#include "tests/gradients/complex_step.h"

namespace choir::tests {
namespace {

using model::Config;

Config tiny_config() {
  Config config = small_config({{4, 2, 5, {}, {}}, {3, 2, 7, {}, {}}});
  config.width = 12;
  config.vocab = 17;
  config.attention = {.heads = 4, .kv_heads = 2, .head_width = 4, .window = 0};
  config.rope.theta = 100;
  config.load_weight = 0.5;
  return config;
}

void check_forward(const model::Model& model, const FlatBatch& flat, const ReferenceOutcome<double>& want) {
  base::Threads threads(2);
  tensor::Buffer<float> logits(flat.ids.size() * static_cast<size_t>(model.config().vocab));
  model::Scratch scratch;
  const auto rows = logits.matrix(static_cast<int>(flat.ids.size()), model.config().vocab);
  model::forward(model, {flat.ids, flat.sequences}, {}, scratch, rows, threads);
  for (size_t i = 0; i < want.logits.size(); ++i)
    CHECK(error(want.logits[i].data(), rows.row(static_cast<int>(i))) < 1e-5);
}

void check_gradients(const model::Model& model, const ReferenceBatch& batch) {
  const Config& config = model.config();
  const std::vector<double> parameters = flat_parameters(model);
  const ReferenceOutcome<double> want = ReferenceModel<double>(config, parameters).run(batch);
  REQUIRE(want.margin > 1e-3);
  const FlatBatch flat(batch);
  check_forward(model, flat, want);

  base::Threads threads(2);
  model::TrainingActivations activations;
  Gradients gradients(config);
  const model::LossScales scales{0.75f, 0.5f};
  const auto loss = forward_backward(model, flat.training(), scales, activations, gradients.tensors, threads);
  CHECK(loss.cross_entropy == doctest::Approx(want.cross_entropy).epsilon(1e-5));
  CHECK(loss.balance == doctest::Approx(want.balance).epsilon(1e-5));
  CHECK(loss.tokens == static_cast<int>(flat.ids.size()) - 1);

  const std::vector<double> derivative = complex_step(parameters, [&](const std::vector<std::complex<double>>& z) {
    return scaled_loss(ReferenceModel<std::complex<double>>(config, z).run(batch), scales);
  });
  const double* next = derivative.data();
  for (size_t i = 0; i < gradients.count(); ++i) {
    CAPTURE(gradients.name(i));
    CHECK(error(next, gradients.numbers(i)) < 1e-5);
    CHECK(std::ranges::any_of(gradients.numbers(i), [](float g) { return g != 0; }));
    next += gradients.numbers(i).size();
  }
  CHECK(next == derivative.data() + derivative.size());
}

TEST_CASE("model: loss, logits and every gradient agree with the reference") {
  const RandomModel owner = random_model(tiny_config(), 1);
  check_gradients(owner.model(), random_batch({7, 6}, 17, 5));
}

TEST_CASE("model: the same with the head tied to the embedding") {
  Config config = tiny_config();
  config.tied = true;
  const RandomModel owner = random_model(config, 2);
  check_gradients(owner.model(), random_batch({7, 6}, 17, 6));
}

TEST_CASE("model: the same with a sliding window and experts that are skipped") {
  Config config = tiny_config();
  config.attention.window = 3;
  config.layers[1].skip_beta = 0.4f;
  const RandomModel owner = random_model(config, 3);
  check_gradients(owner.model(), random_batch({7, 6}, 17, 7));
}

// (1 - w) times the cross entropy of the targets and w times that of a teacher, a mean over the counted tokens.
struct Lesson {
  double weight, temperature;
  std::vector<double> logits;  // (N,V)

  template <class S>
  S teach(const ReferenceOutcome<S>& outcome, std::span<const int32_t> targets) const {
    S sum = 0;
    double counted = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
      if (targets[i] < 0) continue;
      const size_t vocab = outcome.logits[i].size();
      const auto begin = logits.begin() + static_cast<ptrdiff_t>(i * vocab);
      sum += kernels::reference::soft_cross_entropy(
          outcome.logits[i], std::vector<double>(begin, begin + static_cast<ptrdiff_t>(vocab)), temperature);
      counted += 1;
    }
    return sum / counted;
  }
};

TEST_CASE("model: a teacher's part of the loss and of every gradient agrees with the reference") {
  const RandomModel owner = random_model(tiny_config(), 6);
  const ReferenceBatch batch = random_batch({7, 6}, 17, 8);
  const FlatBatch flat(batch);
  const Lesson lesson{0.375, 2.5, kernels::reference::random(13 * 17, 2, 9)};
  const std::vector<float> teacher = kernels::reference::narrow(lesson.logits);
  const model::LossScales scales{0.75f, 0.5f};
  model::TrainingBatch training = flat.training();
  const auto rows_of = [&](int first, int rows) { return tensor::Matrix<const float>(&teacher[first * 17], rows, 17); };
  training.teaching = {rows_of, 0.375f, 2.5f};
  base::Threads threads(2);
  model::TrainingActivations activations;
  Gradients gradients(owner.model().config());
  const auto loss = forward_backward(owner.model(), training, scales, activations, gradients.tensors, threads);

  const Config& config = owner.model().config();
  const std::vector<double> parameters = flat_parameters(owner.model());
  const ReferenceOutcome<double> want = ReferenceModel<double>(config, parameters).run(batch);
  REQUIRE(want.margin > 1e-3);
  CHECK(loss.cross_entropy == doctest::Approx(want.cross_entropy).epsilon(1e-5));
  CHECK(loss.distillation == doctest::Approx(lesson.teach(want, flat.targets)).epsilon(1e-5));
  const std::vector<double> derivative = complex_step(parameters, [&](const std::vector<std::complex<double>>& z) {
    const auto outcome = ReferenceModel<std::complex<double>>(config, z).run(batch);
    return scaled_loss(outcome, {0.75f * (1 - 0.375f), 0.5f}) + 0.75 * 0.375 * lesson.teach(outcome, flat.targets);
  });
  const double* next = derivative.data();
  for (size_t i = 0; i < gradients.count(); ++i) {
    CAPTURE(gradients.name(i));
    CHECK(error(next, gradients.numbers(i)) < 1e-5);
    next += gradients.numbers(i).size();
  }
}

TEST_CASE("model: gradients are added to what is there") {
  const RandomModel owner = random_model(tiny_config(), 4);
  const FlatBatch flat(random_batch({7, 6}, 17, 8));
  base::Threads threads(2);
  model::TrainingActivations activations;
  Gradients once(owner.model().config()), twice(owner.model().config());
  forward_backward(owner.model(), flat.training(), {}, activations, once.tensors, threads);
  for (int pass = 0; pass < 2; ++pass)
    forward_backward(owner.model(), flat.training(), {}, activations, twice.tensors, threads);
  for (size_t i = 0; i < once.count(); ++i) {
    CAPTURE(once.name(i));
    std::vector<double> expected;
    for (const float g : once.numbers(i)) expected.push_back(2 * static_cast<double>(g));
    CHECK(error(expected.data(), twice.numbers(i)) < 1e-5);
  }
}

TEST_CASE("model: the same gradients bit for bit for any number of threads") {
  const RandomModel owner = random_model(tiny_config(), 5);
  const FlatBatch flat(random_batch({7, 6}, 17, 9));
  Gradients one(owner.model().config()), three(owner.model().config());
  base::Threads alone(1), few(3);
  model::TrainingActivations activations;
  forward_backward(owner.model(), flat.training(), {}, activations, one.tensors, alone);
  forward_backward(owner.model(), flat.training(), {}, activations, three.tensors, few);
  for (size_t i = 0; i < one.count(); ++i) {
    CAPTURE(one.name(i));
    CHECK(std::ranges::equal(one.numbers(i), three.numbers(i)));
  }
}

}  // namespace
}  // namespace choir::tests
