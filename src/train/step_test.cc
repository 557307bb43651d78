#include "train/step.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "train/test_run.h"

namespace choir::train {
namespace {

model::Config tiny_model(const std::string& changes) {
  nlohmann::json json = nlohmann::json::parse(kTinyModel);
  json.update(nlohmann::json::parse(changes));
  return model::parse_config(json, "test");
}

// A tiny model and its first step, whose gradient it still holds.
struct FirstStep {
  TrainConfig config = tiny_run();
  model::Config shape;
  Parameters parameters;
  model::Model model;
  base::Threads threads{1};
  StepReport report;

  FirstStep(const std::string& changes, const std::vector<TokenBatch>& batches)
      : shape(tiny_model(changes)), parameters(initialized(shape)), model(shape, parameters.weights()) {
    Progress progress{0, base::Rng(1).state()};
    report = Stepper(config, model, parameters, 1, threads).step(batches, progress);
  }

  static Parameters initialized(const model::Config& shape) {
    Parameters parameters(shape);
    parameters.initialize(1);
    return parameters;
  }
};

// FLOP that a first step of two micro-batches counts: with a peak of 1 the share is work over seconds.
double work_of(const std::string& changes) {
  TokenBatch batch;
  const std::vector<int32_t> ids{5, 9, 2, 44, 80, 3, 7, 12, 10, 5}, next{9, 2, 44, 80, 3, 7, 12, 10, 5, 6};
  batch.add(0, ids, next);
  const StepReport report = FirstStep(changes, {batch, batch}).report;
  return report.share_of_peak * report.seconds;
}

// Of the tiny model: D = 16, F = 12, 2 layers, 2 heads and 1 of keys of width 8, 4 experts, V = 270.
constexpr double kTokens = 20, kHead = 270 * 16, kNorms = 16 + 2 * 2 * 16;
constexpr double kProjections = 2 * (2 * 16 * (16 + 8)), kGates = 2 * 4 * 16, kExpert = 3 * 16 * 12;
constexpr double kShared = kHead + kNorms + kProjections + kGates;

double attention(double pairs) { return 2.0 * 2 * 8 * 2 * pairs; }  // layers, heads, width, and 2 products

TEST_CASE("step: the work is that of the products that were computed") {
  const double experts = kTokens * 2 * 2 * kExpert, pairs = 2 * 10 * 10 / 2;
  const std::string plain = R"({"router_aux_loss_coef": 0})";
  CHECK(work_of(plain) == doctest::Approx(6 * (kTokens * kShared + attention(pairs) + experts)));
  const double tied = work_of(R"({"router_aux_loss_coef": 0, "tie_word_embeddings": true})");
  CHECK(tied == doctest::Approx(work_of(plain)));
  // With a window of 4, a square of 10 loses a triangle of 6.
  CHECK(work_of(plain) - work_of(R"({"router_aux_loss_coef": 0, "sliding_window": 4})") ==
        doctest::Approx(6 * attention(2 * 6 * 6 / 2)));
  // A load loss over micro-batches takes one forward more, without the head.
  CHECK(work_of("{}") - work_of(plain) ==
        doctest::Approx(2 * (kTokens * (kShared - kHead) + attention(pairs) + experts)));
  // More choices than experts with weights: the others cost nothing.
  const double idle = work_of(R"({"router_aux_loss_coef": 0, "num_local_experts": 1, "choir": {"zero_experts": 1}})");
  CHECK(idle == doctest::Approx(6 * (kTokens * (kShared - kGates / 2) + attention(pairs) + kTokens * 2 * kExpert)));
}

using Gradient = model::ModelTensors<Matrix<float>>;

std::vector<std::span<const float>> tensors_of(const model::Config& shape, Gradient gradient) {
  std::vector<std::span<const float>> tensors;
  model::visit_tensors(shape, gradient, [&](const model::TensorInfo&, Matrix<float>& m) {
    tensors.emplace_back(m.data, static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols));
  });
  return tensors;
}

// Ids that no other sequence of the test begins with; the first `prompt` targets are not counted.
void add_example(int length, int prompt, TokenBatch& batch) {
  std::vector<int32_t> ids, next;
  for (int i = 0; i <= length; ++i) ids.push_back((7 * i * i + 31 * length + 5) % 270);
  next.assign(ids.begin() + 1, ids.end());
  ids.pop_back();
  std::fill_n(next.begin(), prompt, -1);
  batch.add(0, ids, next);
}

std::string with_router(const std::string& expression) {
  return nlohmann::json{{"choir", {{"router", expression}}}}.dump();
}

// The first part has 17 tokens and counts 3 of them, the second 9 of 12.
TEST_CASE("step: answers in two micro-batches give the gradient of one batch") {
  TokenBatch whole, first, second;
  for (TokenBatch* batch : {&whole, &first}) {
    add_example(10, 9, *batch);
    add_example(7, 5, *batch);
  }
  for (TokenBatch* batch : {&whole, &second}) add_example(12, 3, *batch);
  for (const std::string balance : {"load(0.5)", "load(0.5) + z_loss(0.25) + entropy(0.25)"}) {
    const std::string changes = with_router("linear > top_k(2) > all > softmax + " + balance);
    CAPTURE(changes);
    FirstStep one(changes, {whole}), two(changes, {first, second});
    CHECK(two.report.loss == doctest::Approx(one.report.loss).epsilon(1e-6));
    CHECK(two.report.balance_loss == doctest::Approx(one.report.balance_loss).epsilon(1e-6));
    const auto want = tensors_of(one.shape, one.parameters.gradients());
    const auto got = tensors_of(two.shape, two.parameters.gradients());
    for (size_t i = 0; i < want.size(); ++i) {
      CAPTURE(i);
      float most = 0, worst = 0;
      for (size_t j = 0; j < want[i].size(); ++j) {
        most = std::max(most, std::abs(want[i][j]));
        worst = std::max(worst, std::abs(want[i][j] - got[i][j]));
      }
      CHECK(most > 0);
      CHECK(worst < 1e-5f * most);
    }
  }
}

// One scale for both losses, the share of the counted targets.
TEST_CASE("step: where every target counts, both losses weigh alike, bit for bit") {
  std::vector<TokenBatch> batches;
  for (const int length : {10, 7, 12}) add_example(length, 0, batches.emplace_back());
  const std::string changes = with_router("linear > top_k(2) > all > softmax + z_loss(0.25) + cv2(0.5)");
  FirstStep step(changes, batches);
  Parameters parameters = FirstStep::initialized(step.shape);
  const model::Model model(step.shape, parameters.weights());
  model::TrainingActivations activations;
  double balance = 0;
  for (const TokenBatch& batch : batches) {
    const auto part = static_cast<float>(static_cast<double>(batch.counted()) / 29);
    const model::TrainingBatch training{{batch.ids, batch.sequences}, batch.targets};
    balance +=
        static_cast<double>(part) *
        forward_backward(model, training, {part, part}, activations, parameters.gradients(), step.threads).balance;
  }
  CHECK(step.report.balance_loss == doctest::Approx(balance));
  const auto want = tensors_of(step.shape, parameters.gradients());
  const auto got = tensors_of(step.shape, step.parameters.gradients());
  for (size_t i = 0; i < want.size(); ++i) CHECK(std::ranges::equal(want[i], got[i]));
}

}  // namespace
}  // namespace choir::train
