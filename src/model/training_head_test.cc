#include "model/training_head.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "tests/random_model.h"

namespace choir::model {
namespace {

constexpr int kRowCount = 2 * kHeadRows + 77;  // two whole parts and one that is none
constexpr float kScale = 0.75f;

Config head_config() {
  Config config = tests::small_config();
  config.head_bias = true;
  config.logit_divisor = 2;
  config.max_positions = kRowCount;
  return config;
}

std::vector<float> random_numbers(size_t count, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> numbers(count);
  for (float& v : numbers) v = rng.normal();
  return numbers;
}

// Rows before a head, what follows them and what a teacher says; every seventh row is not counted.
struct Lesson {
  tests::RandomModel owner = tests::random_model(head_config(), 3);
  int vocab = owner.model().config().vocab, width = owner.model().config().width;
  std::vector<int32_t> ids = tests::random_ids(kRowCount, vocab, 4), targets = tests::random_ids(kRowCount, vocab, 5);
  std::vector<kernels::Sequence> sequences{{0, kRowCount, 0, 0}};
  std::vector<float> normed = random_numbers(static_cast<size_t>(kRowCount * width), 6);
  std::vector<float> teacher = random_numbers(static_cast<size_t>(kRowCount * vocab), 7);
  Teaching teaching{[this](int first, int rows) {
                      return Matrix<const float>(&teacher[static_cast<size_t>(first * vocab)], rows, vocab);
                    },
                    0.25f, 1.5f};

  Lesson() {
    for (size_t t = 0; t < targets.size(); t += 7) targets[t] = -1;
  }
  Matrix<const float> rows() const { return {normed.data(), kRowCount, width}; }
};

struct Outcome {
  TrainingLoss loss;
  Buffer<float> dnormed, dhead, dbias;

  Outcome(const Lesson& lesson, const Teaching& teaching, int thread_count)
      : dnormed(lesson.normed.size()),
        dhead(static_cast<size_t>(lesson.vocab * lesson.width)),
        dbias(static_cast<size_t>(lesson.vocab)) {
    base::Threads threads(thread_count);
    const TrainingBatch batch{.batch = {lesson.ids, lesson.sequences}, .targets = lesson.targets, .teaching = teaching};
    const ForwardPass pass(lesson.owner.model(), batch.batch, threads, {.balancing = moe::Balancing::kOn});
    ModelTensors<Matrix<float>> gradients;
    gradients.head = dhead.matrix(lesson.vocab, lesson.width);
    gradients.head_bias = dbias.matrix(1, lesson.vocab);
    HeadActivations head;
    HeadRoom room;
    loss = head_losses(lesson.owner.model(), {pass, batch, kScale},
                       {lesson.rows(), dnormed.matrix(kRowCount, lesson.width), head, room}, gradients, threads);
    CHECK(room.logits.size() == static_cast<size_t>(kHeadRows * lesson.vocab));
  }
};

std::vector<double> softmax(std::vector<double> logits, double temperature) {
  double sum = 0;
  for (double& z : logits) sum += z = std::exp(z / temperature);
  for (double& z : logits) z /= sum;
  return logits;
}

// The same in double, by plain loops over whole rows.
struct Plain {
  double cross_entropy = 0, distillation = 0;
  std::vector<double> dnormed, dhead, dbias;

  Plain(const Lesson& lesson, double weight)
      : dnormed(lesson.normed.size()), dhead(static_cast<size_t>(lesson.vocab * lesson.width)), dbias(lesson.vocab) {
    const auto counted = static_cast<double>(std::ranges::count_if(lesson.targets, [](int32_t t) { return t >= 0; }));
    for (int t = 0; t < kRowCount; ++t)
      if (lesson.targets[t] >= 0) add(lesson, weight, counted, t);
  }

 private:
  void add(const Lesson& lesson, double weight, double counted, int t) {
    const Matrix<const float> head = tensor::as_matrix(lesson.owner.model().tensors().head);
    const std::span<const float> bias = tensor::as_vector(lesson.owner.model().tensors().head_bias);
    const double temperature = lesson.teaching.temperature;
    std::vector<double> z(lesson.vocab), y(lesson.vocab);
    for (int v = 0; v < lesson.vocab; ++v) {
      z[v] = bias[v];
      for (int d = 0; d < lesson.width; ++d) z[v] += static_cast<double>(head[v][d]) * lesson.rows()[t][d];
      z[v] /= 2;
      y[v] = lesson.teacher[static_cast<size_t>(t * lesson.vocab + v)];
    }
    const std::vector<double> own = softmax(z, 1), soft = softmax(z, temperature), wanted = softmax(y, temperature);
    cross_entropy -= std::log(own[lesson.targets[t]]) / counted;
    for (int v = 0; v < lesson.vocab; ++v) {
      distillation += temperature * temperature * wanted[v] * std::log(wanted[v] / soft[v]) / counted;
      const double hard = own[v] - (v == lesson.targets[t]);
      const double dz = kScale * ((1 - weight) * hard + weight * temperature * (soft[v] - wanted[v])) / counted / 2;
      dbias[v] += dz;
      for (int d = 0; d < lesson.width; ++d) {
        dhead[static_cast<size_t>(v * lesson.width + d)] += dz * lesson.rows()[t][d];
        dnormed[static_cast<size_t>(t * lesson.width + d)] += dz * head[v][d];
      }
    }
  }
};

void check_close(const std::vector<double>& want, const Buffer<float>& got) {
  double most = 0, worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    most = std::max(most, std::abs(want[i]));
    worst = std::max(worst, std::abs(want[i] - static_cast<double>(got[i])));
  }
  CHECK(most > 0);
  CHECK(worst < 1e-5 * most);
}

TEST_CASE("training head: losses and gradients agree with plain loops over whole rows, with a teacher and without") {
  const Lesson lesson;
  for (const bool taught : {false, true}) {
    CAPTURE(taught);
    const Outcome got(lesson, taught ? lesson.teaching : Teaching{}, 2);
    const Plain want(lesson, taught ? lesson.teaching.weight : 0);
    CHECK(got.loss.tokens == kRowCount - (kRowCount + 6) / 7);
    CHECK(got.loss.cross_entropy == doctest::Approx(want.cross_entropy).epsilon(1e-5));
    CHECK(got.loss.distillation == doctest::Approx(taught ? want.distillation : 0).epsilon(1e-5));
    check_close(want.dnormed, got.dnormed);
    check_close(want.dhead, got.dhead);
    check_close(want.dbias, got.dbias);
  }
}

TEST_CASE("training head: the same bits for any number of threads") {
  const Lesson lesson;
  const Outcome one(lesson, lesson.teaching, 1), three(lesson, lesson.teaching, 3);
  CHECK(one.loss.cross_entropy == three.loss.cross_entropy);
  CHECK(one.loss.distillation == three.loss.distillation);
  CHECK(std::ranges::equal(one.dnormed.span(), three.dnormed.span()));
  CHECK(std::ranges::equal(one.dhead.span(), three.dhead.span()));
  CHECK(std::ranges::equal(one.dbias.span(), three.dbias.span()));
}

TEST_CASE("training head: the gradient of the weight has the bits of one product over all rows") {
  const Lesson lesson;
  const Outcome parts(lesson, {}, 2);
  base::Threads threads(2);
  const TrainingBatch batch{.batch = {lesson.ids, lesson.sequences}, .targets = lesson.targets};
  const ForwardPass pass(lesson.owner.model(), batch.batch, threads, {.balancing = moe::Balancing::kOn});
  const Buffer<float> room(static_cast<size_t>(kRowCount * lesson.vocab)), whole(parts.dhead.size());
  const Matrix<float> logits = room.matrix(kRowCount, lesson.vocab);
  std::vector<float> loss(kRowCount), log_sum(kRowCount);
  HeadActivations head;
  pass.logits(lesson.rows(), head, logits);
  kernels::cross_entropy_forward(logits, lesson.targets, loss, log_sum, threads);
  const float scale = kScale / static_cast<float>(parts.loss.tokens) / 2;
  kernels::cross_entropy_backward(logits, lesson.targets, log_sum, scale, threads);
  kernels::gemm_backward_weight(logits, lesson.rows(), whole.matrix(lesson.vocab, lesson.width), threads);
  CHECK(std::ranges::equal(parts.dhead.span(), whole.span()));
}

}  // namespace
}  // namespace choir::model
