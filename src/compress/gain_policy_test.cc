#include "compress/gain_policy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "compress/repair_case.h"
#include "compress/replay.h"

namespace choir::compress {
namespace {

constexpr const char* kRouters[] = {
    "linear > top_k(2) > all > chosen",
    "linear > top_k(3) > all > softmax(renorm, scale=1.5)",
    "linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5) + bias(0.001)",
    "linear > top_k(3) > all > sigmoid",
    "linear > top_k(3) > all > softmax(scale=4)",
};
const std::vector<int> kKept{1, 2, 4, 7, 8};

std::vector<double> some_weights() {
  std::vector<double> weight;
  for (int t = 0; t < RepairCase::kTokens; ++t) weight.push_back(0.5 + t % 3);
  return weight;
}

TEST_CASE("gain policy: the loss of the record is that of the policy's model, by every rule") {
  const std::vector<double> weight = some_weights();
  for (const char* router : kRouters) {
    CAPTURE(router);
    const RepairCase c(router, 10);
    const auto flags = flags_of(kKept, 10);
    for (const GainPolicy policy : {GainPolicy::kReroute, GainPolicy::kDrop}) {
      const double loss = policy_loss({c.record, flags, policy, weight});
      CHECK(loss > 0);
      CHECK(loss == doctest::Approx(c.loss_of(c.kept(kKept, policy), weight)).epsilon(1e-6));
    }
    base::Threads threads(1);
    Replay replay(c.record, weight, threads);
    replay.keep(kKept);
    CHECK(replay.loss() == doctest::Approx(policy_loss({c.record, flags, GainPolicy::kReroute, weight})).epsilon(1e-9));
  }
}

// The best k kept experts, their gains by a softmax over the k best of all.
TEST_CASE("gain policy: the original sum divides by what the full layer divides by") {
  const RepairCase c("linear > top_k(2) > all > chosen", 10);
  const auto& weights = c.model().tensors().blocks[0].moe;
  double expected = 0;
  const std::vector<Row> x = as_rows(c.inputs()), z = as_rows(c.target().z);
  for (size_t t = 0; t < x.size(); ++t) {
    Row p = plain_product(weights.gate[0], x[t]);
    for (double& v : p) v = std::exp(v);
    Row sorted = p;
    std::ranges::sort(sorted, std::greater<>());
    Row gain(10, 0.0), output(20, 0.0);
    for (int k = 0; k < 2; ++k) {
      int best = -1;
      for (const int e : kKept)
        if (gain[static_cast<size_t>(e)] == 0 && (best < 0 || p[static_cast<size_t>(e)] > p[static_cast<size_t>(best)]))
          best = e;
      gain[static_cast<size_t>(best)] = p[static_cast<size_t>(best)] / (sorted[0] + sorted[1]);
      const Row answer = plain_expert(weights, best, x[t]);
      for (size_t d = 0; d < 20; ++d) output[d] += gain[static_cast<size_t>(best)] * answer[d];
    }
    for (size_t d = 0; d < 20; ++d) expected += (z[t][d] - output[d]) * (z[t][d] - output[d]);
  }
  CHECK(policy_loss({c.record, flags_of(kKept, 10), GainPolicy::kOriginalSum}) ==
        doctest::Approx(expected).epsilon(1e-6));
}

TEST_CASE("gain policy: with a fixed divisor the original sum is re-routing, and nothing dropped costs nothing") {
  const RepairCase c("linear > top_k(3) > all > sigmoid", 10);
  const auto flags = flags_of(kKept, 10), all = flags_of({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10);
  CHECK(policy_loss({c.record, flags, GainPolicy::kOriginalSum}) ==
        doctest::Approx(policy_loss({c.record, flags, GainPolicy::kReroute})).epsilon(1e-6));
  for (const GainPolicy policy : {GainPolicy::kReroute, GainPolicy::kOriginalSum, GainPolicy::kDrop})
    CHECK(policy_loss({c.record, all, policy}) < 1e-9);
  const Model whole = c.kept({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, GainPolicy::kNovice);
  CHECK(c.loss_of(whole) < 1e-9);
  CHECK(whole.config().layers == c.model().config().layers);
  CHECK(whole.tensors().blocks[0].moe.gate[0].data == c.model().tensors().blocks[0].moe.gate[0].data);
}

// The router of a model that lost experts must still learn from the load loss alone.
TEST_CASE("gain policy: the load loss moves the router of what is left") {
  const RepairCase c("linear > top_k(2) > all > chosen + load(0.1)", 10);
  base::Threads threads(1);
  for (const GainPolicy policy : {GainPolicy::kReroute, GainPolicy::kDrop, GainPolicy::kNovice}) {
    const Model model = c.kept(kKept, policy);
    const auto& weights = model.tensors().blocks[0].moe;
    std::vector<std::vector<float>> numbers;
    const auto like = [&](const tensor::Weight& w) {
      return tensor::Matrix<float>(numbers.emplace_back(w.size()).data(), w.rows, w.cols);
    };
    moe::MoeTensors<tensor::Matrix<float>> gradients;
    gradients.gate = {like(weights.gate[0])};
    for (size_t e = 0; e < kKept.size(); ++e) {
      gradients.w1.push_back(like(weights.w1[e]));
      gradients.w2.push_back(like(weights.w2[e]));
      gradients.w3.push_back(like(weights.w3[e]));
    }
    gradients.idle.zero = weights.idle.zero;
    for (const tensor::Weight& v : weights.idle.novice) gradients.idle.novice.push_back(like(v));
    const tensor::Buffer<float> output(c.x.size()), none(c.x.size()), dx(c.x.size());
    moe::MoeStep step;
    step.tokens.x = c.inputs();
    step.output = output.matrix(RepairCase::kTokens, 20);
    step.balancing = moe::Balancing::kOn;
    step.rule = moe::Rule::kTraining;
    moe::MoeActivations activations;
    tensor::Buffer<float> dhidden;
    moe::moe_forward(model.router(0), weights, step, activations, threads);
    moe::moe_backward(model.router(0), weights, activations,
                      {.step = step,
                       .doutput = none.matrix(RepairCase::kTokens, 20),
                       .dx = dx.matrix(RepairCase::kTokens, 20),
                       .balance_scale = 1,
                       .dhidden = dhidden},
                      gradients, threads);
    for (int e = 0; e < gradients.gate[0].rows; ++e)
      CHECK(std::ranges::any_of(gradients.gate[0].row(e), [](float v) { return v != 0; }));
  }
}

// What the model must give: the full layer's gains, the constant for each dropped expert.
TEST_CASE("gain policy: novices answer their constants, and the least-squares constant is the best one") {
  for (const char* router : kRouters) {
    CAPTURE(router);
    const RepairCase c(router, 10);
    const auto flags = flags_of(kKept, 10);
    const auto& weights = c.model().tensors().blocks[0].moe;
    const std::vector<Row> x = as_rows(c.inputs());
    const Model novices = c.kept(kKept, GainPolicy::kNovice);
    tensor::Buffer<float> got(c.x.size());
    base::Threads threads(1);
    run_layer(novices, 0, c.inputs(), got.matrix(RepairCase::kTokens, 20), threads);
    double worst = 0;
    for (int t = 0; t < RepairCase::kTokens; ++t) {
      Row want(20, 0.0);
      const Choice own = own_choice(c.record, t);
      for (size_t s = 0; s < own.rank.size(); ++s) {
        const int e = c.record.ranking(t)[static_cast<size_t>(own.rank[s])];
        const auto v = c.record.gained_mean.begin() + e * 20;
        const Row answer =
            flags[static_cast<size_t>(e)] ? plain_expert(weights, e, x[static_cast<size_t>(t)]) : Row(v, v + 20);
        for (size_t d = 0; d < 20; ++d) want[d] += own.gain[s] * answer[d];
      }
      for (size_t d = 0; d < 20; ++d)
        worst = std::max(worst, std::abs(want[d] - static_cast<double>(got[static_cast<size_t>(t) * 20 + d])));
    }
    CHECK(worst < 1e-4);
  }
  // One expert dropped: no other one's error mixes in, so that the constant must win.
  const RepairCase c(kRouters[1], 10);
  const std::vector<int> kept{0, 1, 2, 3, 4, 6, 7, 8, 9};
  const KeptLayer plain{kept, GainPolicy::kNovice, c.record.mean};
  const double best = c.loss_of(c.kept(kept, GainPolicy::kNovice));
  CHECK(best < c.loss_of(with_policies(c.model(), {&plain, 1})));
  CHECK(c.loss_of(with_policies(c.model(), {&plain, 1})) < c.loss_of(c.kept(kept, GainPolicy::kDrop)));
}

TEST_CASE("gain policy: what cannot be written is refused") {
  const RepairCase c(kRouters[0], 10), grouped("linear > groups(2, 1, 2) > all > chosen", 10);
  CHECK_THROWS_AS(c.kept(kKept, GainPolicy::kOriginalSum), base::Error);
  CHECK_THROWS_AS(grouped.kept({0, 1, 2, 5, 6, 7}, GainPolicy::kDrop), base::Error);
  const Model idle = c.kept(kKept, GainPolicy::kDrop);
  const KeptLayer again{{0, 1, 2}, GainPolicy::kReroute, {}};
  CHECK_THROWS_AS(with_policies(idle, {&again, 1}), base::Error);
}

}  // namespace
}  // namespace choir::compress
