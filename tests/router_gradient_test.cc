// The loss, the logits and every gradient of a whole model with routers of other kinds, under the training rule,
// against the reference and its complex step. The choices are those that the engine made.
#include <doctest/doctest.h>

#include "moe/router.h"
#include "tests/gradients/complex_step.h"
#include "tests/routed_model.h"

namespace choir::tests {
namespace {

using model::Config;
using Score = RouterSpec::Score;
using Weigh = RouterSpec::Weigh;

constexpr int kTokens = 13;

struct Case {
  std::string router;
  RouterSpec spec;
  std::vector<model::LayerConfig> layers = {{4, 2, 5, {}, {}}, {3, 2, 7, {}, {}}};
};

Config config_of(const Case& c) {
  Config config = routed_config(c.router, c.layers);
  config.width = 12;
  config.vocab = 17;
  config.attention = {.heads = 4, .kv_heads = 2, .head_width = 4, .window = 0};
  config.rope.theta = 100;
  return config;
}

model::RoutingOptions training(const std::vector<int32_t>& node) {
  model::RoutingOptions routing;
  routing.rule = moe::Rule::kTraining;
  routing.node = node;
  routing.nodes = 2;
  return routing;
}

void check_logits(const model::Model& model, const FlatBatch& flat, const model::RoutingOptions& routing,
                  const ReferenceOutcome<double>& want) {
  base::Threads threads(2);
  const int vocab = model.config().vocab;
  std::vector<float> logits(static_cast<size_t>(kTokens * vocab));
  model::Scratch scratch;
  model::ForwardOptions options;
  options.routing = routing;
  model::forward(model, {flat.ids, flat.sequences}, options, scratch, {logits.data(), kTokens, vocab}, threads);
  for (size_t t = 0; t < want.logits.size(); ++t)
    CHECK(error(want.logits[t].data(),
                std::span(logits).subspan(t * static_cast<size_t>(vocab), static_cast<size_t>(vocab))) < 1e-5);
}

// Returns how many proposals were dropped, all layers together.
int check_gradients(Case c, uint64_t seed) {
  CAPTURE(c.router);
  const Config config = config_of(c);
  const RandomModel owner(config, seed);
  const ReferenceBatch batch = random_batch({7, 6}, config.vocab, seed + 5);
  const FlatBatch flat(batch);
  std::vector<int32_t> node;
  for (int t = 0; t < kTokens; ++t) node.push_back(t < 8 ? t % 2 : 1);
  c.spec.node.assign(node.begin(), node.end());

  base::Threads threads(2);
  model::TrainingActivations activations;
  Gradients gradients(config);
  const model::LossScales scales{0.75f, 0.5f};
  model::TrainingBatch step = flat.training();
  step.routing = training(node);
  const auto loss = forward_backward(owner.model(), step, scales, activations, gradients.tensors, threads);
  std::vector<FixedChoices> choices;
  int dropped = 0;
  for (const auto& block : activations.blocks) {
    choices.push_back({block.moe.routing.proposed, block.moe.routing.chosen});
    for (size_t i = 0; i < choices.back().chosen.size(); ++i)
      dropped += choices.back().proposed[i] >= 0 && choices.back().chosen[i] < 0;
  }

  const std::vector<double> parameters = flat_parameters(owner.model());
  const auto want = ReferenceModel<double>(config, parameters, &c.spec).run(batch, choices);
  check_logits(owner.model(), flat, step.routing, want);
  CHECK(loss.cross_entropy == doctest::Approx(want.cross_entropy).epsilon(1e-5));
  CHECK(loss.balance == doctest::Approx(want.balance).epsilon(1e-5));
  const std::vector<double> derivative = complex_step(parameters, [&](const std::vector<std::complex<double>>& z) {
    return scaled_loss(ReferenceModel<std::complex<double>>(config, z, &c.spec).run(batch, choices), scales);
  });
  const double* next = derivative.data();
  for (size_t i = 0; i < gradients.count(); ++i) {
    const std::string& name = gradients.name(i);
    CAPTURE(name);
    CHECK(error(next, gradients.numbers(i)) < 2e-5);
    const bool alive = std::ranges::any_of(gradients.numbers(i), [](float g) { return g != 0; });
    if (name.ends_with("router_state")) CHECK(!alive);
    if (name.find("gate") != std::string::npos && !name.ends_with("0.block_sparse_moe.gate_residual.weight"))
      CHECK(alive);
    next += gradients.numbers(i).size();
  }
  CHECK(next == derivative.data() + derivative.size());
  return dropped;
}

TEST_CASE("model with expert-token resonance: loss, logits and every gradient agree with the reference") {
  const RouterSpec spec{.score = Score::kGrapCosine, .load = 0.5, .locality = 0.25, .state = 2, .state_of_each = 1};
  for (const std::string k : {"1", "2"})
    CHECK(check_gradients({"grap_cosine(center=ema) > top_k(" + k +
                               ") > top_capacity(etr_sum(hi=0.75)) > softmax + load(0.5) + "
                               "locality(0.25)",
                           spec},
                          1) > 0);
}

TEST_CASE("model with the alias etr: the same") {
  const RouterSpec spec{.score = Score::kGrapCosine,
                        .load = static_cast<double>(0.01f),
                        .locality = static_cast<double>(0.01f),
                        .state = 2,
                        .state_of_each = 1};
  CHECK(check_gradients({"etr", spec}, 2) > 0);
}

TEST_CASE("model with the alias locmoe: the same") {
  const RouterSpec spec{
      .score = Score::kGrap, .load = static_cast<double>(0.01f), .locality = static_cast<double>(0.01f), .state = 1};
  CHECK(check_gradients({"locmoe", spec}, 3) > 0);
}

TEST_CASE("model with switch routing: the same") {
  const RouterSpec spec{.load = 0.5};
  CHECK(check_gradients({"linear > top_k(1) > fifo(factor(1.25)) > softmax + load(0.5)", spec}, 4) > 0);
  CHECK(check_gradients({"linear > top_k(1) > fifo(factor(0.5)) > softmax + load(0.5)", spec}, 5) > 3);
}

TEST_CASE("model with normalised sigmoids and a bias: the same") {
  const RouterSpec spec{.weigh = Weigh::kSigmoidNorm, .scale = 2.5, .z_loss = 0.125, .state_of_each = 1};
  check_gradients({"linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5) + bias(0.001) + z_loss(0.125)", spec}, 6);
  CHECK(
      check_gradients(
          {"linear(sigmoid) > top_k(2) > top_capacity(factor(0.66)) > sigmoid_norm(2.5) + bias(0.001) + z_loss(0.125)",
           spec},
          7) > 3);
}

TEST_CASE("model whose gates read the scores of the layer before: the same") {
  const std::vector<model::LayerConfig> equal{{4, 2, 5, {}, {}}, {4, 2, 7, {}, {}}, {4, 2, 5, {}, {}}};
  check_gradients({"linear(residual) > top_k(2) > all > chosen + load(0.5)",
                   {.weigh = Weigh::kChosen, .residual = true, .load = 0.5},
                   equal},
                  8);
  CHECK(check_gradients({"linear(residual) > top_k(2) > fifo(factor(0.66)) > softmax + load(0.5) + z_loss(0.125)",
                         {.residual = true, .load = 0.5, .z_loss = 0.125},
                         equal},
                        9) > 3);
}

TEST_CASE("model with learnt cosines: the same") {
  check_gradients({"grap_cosine(learn) > top_k(2) > top_capacity(factor(0.66)) > softmax(renorm) + load(0.5)",
                   {.score = Score::kGrapLearnt, .weigh = Weigh::kRenormalised, .load = 0.5}},
                  10);
  check_gradients({"dense_cosine > top_k(2) > top_capacity(factor(0.66)) > softmax + locality(0.25)",
                   {.score = Score::kDenseCosine, .locality = 0.25}},
                  11);
}

TEST_CASE("every alias trains its gate: a finite gradient that is not 0 reaches each tensor of it") {
  std::vector<int32_t> node;
  for (int t = 0; t < 60; ++t) node.push_back(t % 2);
  for (const std::string& router : router_expressions()) {
    const Config config = routed_config(router, {{16, 2, 12, {}, {}}, {16, 2, 8, {}, {}}});
    const RandomModel owner(config, 5);
    const ReferenceBatch batch = random_batch({40, 20}, config.vocab, 6);
    settle(owner.model(), batch, 1);
    const FlatBatch flat(batch);
    model::TrainingBatch step = flat.training();
    step.routing = training(node);
    base::Threads threads(2);
    model::TrainingActivations activations;
    Gradients gradients(config);
    const auto loss = forward_backward(owner.model(), step, {}, activations, gradients.tensors, threads);
    CHECK(std::isfinite(loss.cross_entropy + loss.balance));
    model::TrainingActivations some;
    some.recompute = model::Recompute::kBlock;  // a choice is made once
    Gradients again(config);
    CHECK(forward_backward(owner.model(), step, {}, some, again.tensors, threads).balance == loss.balance);
    for (size_t i = 0; i < gradients.count(); ++i) {
      const std::string& name = gradients.name(i);
      CAPTURE(router);
      CAPTURE(name);
      CHECK(std::ranges::equal(gradients.numbers(i), again.numbers(i)));
      double most = 0;
      for (const float g : gradients.numbers(i))
        most = std::max(most, std::isfinite(g) ? std::abs(double(g)) : HUGE_VAL);
      CHECK(most < HUGE_VAL);
      const bool first = name.find("layers.0.") != std::string::npos;
      if (name.ends_with("router_state"))
        CHECK(most == 0);
      else if (name.find("gate") != std::string::npos && !(first && name.find("residual") != std::string::npos))
        CHECK(most > 1e-8);
    }
  }
}

}  // namespace
}  // namespace choir::tests
