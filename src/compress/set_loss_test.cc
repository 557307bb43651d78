#include "compress/set_loss.h"

#include <doctest/doctest.h>

#include "compress/test_layer.h"

namespace choir::compress {
namespace {

double plain_norm(std::span<const float> v) {
  double sum = 0;
  for (const float x : v) sum += static_cast<double>(x) * x;
  return sum;
}

TEST_CASE("set loss: that of the layer run again, by every rule") {
  for (const TestRule& rule : kTestRules) {
    CAPTURE(rule.router);
    const TestLayer c(rule);
    base::Threads threads(2);
    base::Rng rng(4);
    std::vector<double> weight;
    for (int t = 0; t < TestLayer::kTokens; ++t) weight.push_back(0.5 + t % 3);
    const SetLoss loss(c.record, weight, threads);
    std::vector<std::vector<int>> sets;
    for (int i = 0; i < 4; ++i) sets.push_back(c.some_experts(rng, rule.least));
    const std::vector<double> losses = loss.losses(sets);
    for (size_t i = 0; i < sets.size(); ++i) {
      CHECK(losses[i] == loss.loss(sets[i]));
      CHECK(losses[i] == doctest::Approx(c.run_again(sets[i], weight)).epsilon(1e-6));
    }
  }
}

TEST_CASE("objective: a token weighs one over the norm of the output or of the stream, tiny norms count as a floor") {
  TestLayer c(kTestRules[1]);
  base::Threads threads(1);
  CHECK(objective_weights(c.record, Objective::kPublished, threads) == std::vector<double>(TestLayer::kTokens, 1.0));
  const auto output = objective_weights(c.record, Objective::kOutput, threads);
  const auto stream = objective_weights(c.record, Objective::kStream, threads);
  for (int t = 0; t < TestLayer::kTokens; ++t) {
    CHECK(output[t] ==
          doctest::Approx(1 / plain_norm(c.z.matrix(TestLayer::kTokens, TestLayer::kWidth).row(t))).epsilon(1e-5));
    CHECK(stream[t] ==
          doctest::Approx(1 / plain_norm(c.middle.matrix(TestLayer::kTokens, TestLayer::kWidth).row(t))).epsilon(1e-5));
  }
  c.record.residual.assign(TestLayer::kTokens, 8.0f);
  c.record.residual[3] = 0;
  c.record.residual[4] = 1e-20f;
  c.record.residual[5] = 1e20f;
  const auto floored = objective_weights(c.record, Objective::kStream, threads);
  CHECK(floored[0] == doctest::Approx(1 / 8.0));
  CHECK(floored[3] == doctest::Approx(100 / 8.0));
  CHECK(floored[4] == floored[3]);
  CHECK(floored[5] == doctest::Approx(1e-20));
  c.record.residual.assign(TestLayer::kTokens, 0.0f);
  CHECK(objective_weights(c.record, Objective::kStream, threads) == std::vector<double>(TestLayer::kTokens, 1.0));
}

}  // namespace
}  // namespace choir::compress
