#include "train/step.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "train/test_run.h"

namespace choir::train {
namespace {

// FLOP that a first step of two micro-batches counts: with a peak of 1 the share is work over seconds.
double work_of(const std::string& changes, TrainConfig config = tiny_run()) {
  nlohmann::json json = nlohmann::json::parse(kTinyModel);
  json.update(nlohmann::json::parse(changes));
  const model::Config shape = model::parse_config(json, "test");
  Parameters parameters(shape);
  parameters.initialize(1);
  const model::Model model(shape, parameters.weights());
  base::Threads threads(1);
  Stepper stepper(config, model, parameters, 1, threads);
  TokenBatch batch;
  const std::vector<int32_t> ids{5, 9, 2, 44, 80, 3, 7, 12, 10, 5}, next{9, 2, 44, 80, 3, 7, 12, 10, 5, 6};
  batch.add(0, ids, next);
  Progress progress{0, base::Rng(1).state()};
  const StepReport report = stepper.step(std::vector{batch, batch}, progress);
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

}  // namespace
}  // namespace choir::train
