#include "train/evaluation.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/random_model.h"

namespace choir::train {
namespace {

constexpr int kLength = 16;

// Two domains of random ids; a sequence of the second one in three.
HeldOut random_held_out(int vocab) {
  std::vector<DomainTokens> domains{{"a", 1, {}}, {"b", 1, {}}};
  domains[0].held_out = tests::random_ids(6 * kLength + 1, vocab, 3);
  domains[1].held_out = tests::random_ids(3 * kLength + 1, vocab, 4);
  return {{"a", "b"}, held_out_batches(domains, 4, kLength)};
}

model::Config config_of(const std::string& router) {
  model::Config config = tests::small_config({{4, 2, 24, {}, {}, router}, {6, 2, 40, {}, {}, router}});
  return config;
}

struct Expected {
  double loss[2] = {0, 0};  // [domain] nats, summed
  int tokens[2] = {0, 0};
  std::vector<std::vector<int32_t>> chosen;
};

// By a forward of the model and plain loops.
Expected expected(const model::Model& model, const HeldOut& held_out, const model::RoutingOptions& routing) {
  Expected result;
  base::Threads threads(1);
  model::Scratch scratch;
  for (const TokenBatch& batch : held_out.batches) {
    const int rows = static_cast<int>(batch.ids.size()), vocab = model.config().vocab;
    const tensor::Buffer<float> logits(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
    const model::Observer keep = [&](int, const moe::Routing& r) { result.chosen.push_back(r.chosen); };
    model::forward(model, {batch.ids, batch.sequences}, {.observer = keep, .routing = routing}, scratch,
                   logits.matrix(rows, vocab), threads);
    for (int t = 0; t < rows; ++t) {
      const int d = batch.domains[static_cast<size_t>(t / kLength)];
      double sum = 0;
      for (int v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits.matrix(rows, vocab)[t][v]));
      result.loss[d] += std::log(sum) - static_cast<double>(logits.matrix(rows, vocab)[t][batch.targets[t]]);
      ++result.tokens[d];
    }
  }
  return result;
}

// Of slots of all layers and batches; the empty ones are empty under both rules and in `all` not counted.
struct Agreement {
  int same = 0, all = 0, empty = 0;

  Agreement(const Expected& decode, const Expected& training) {
    for (size_t i = 0; i < decode.chosen.size(); ++i)
      for (size_t j = 0; j < decode.chosen[i].size(); ++j) add(decode.chosen[i][j], training.chosen[i][j]);
  }
  void add(int32_t a, int32_t b) {
    empty += a < 0 && b < 0;
    all += a >= 0 || b >= 0;
    same += a == b && a >= 0;
  }
};

TEST_CASE("evaluation: losses and agreement of both rules, domain by domain") {
  const tests::RandomModel random(config_of("linear > top_k(2) > top_capacity(factor(0.6)) > chosen"), 5);
  const HeldOut held_out = random_held_out(67);
  REQUIRE(held_out.batches.size() == 3);
  CHECK(held_out.batches[0].domains == std::vector<int32_t>{0, 1, 0, 0});
  base::Threads threads(2);
  const Evaluation e = evaluate(random.model(), held_out, {}, threads);
  const Expected decode = expected(random.model(), held_out, {});
  const Expected training = expected(random.model(), held_out, {.rule = moe::Rule::kTraining});
  CHECK(e.tokens == 9 * kLength);
  REQUIRE(e.domains.size() == 2);
  for (int d = 0; d < 2; ++d) {
    CHECK(e.domains[d].tokens == decode.tokens[d]);
    CHECK(e.domains[d].loss == doctest::Approx(decode.loss[d] / decode.tokens[d]));
    CHECK(e.domains[d].loss_training_rule == doctest::Approx(training.loss[d] / training.tokens[d]));
    for (const std::vector<double>& load : e.domains[d].load) {
      double sum = 0;
      for (const double share : load) sum += share;
      CHECK(sum == doctest::Approx(1));
    }
  }
  CHECK(e.loss == doctest::Approx((decode.loss[0] + decode.loss[1]) / (9 * kLength)));
  CHECK(e.loss_training_rule == doctest::Approx((training.loss[0] + training.loss[1]) / (9 * kLength)));
  CHECK(std::abs(e.loss - e.loss_training_rule) > 1e-4);
  const Agreement agreement(decode, training);
  CHECK(e.agreement == doctest::Approx(static_cast<double>(agreement.same) / agreement.all));
  CHECK((e.agreement > 0.2 && e.agreement < 0.9));
}

TEST_CASE("evaluation: where nobody is refused both rules are one") {
  const tests::RandomModel random(config_of(""), 6);
  base::Threads threads(1);
  const Evaluation e = evaluate(random.model(), random_held_out(67), {}, threads);
  CHECK(e.loss == e.loss_training_rule);
  CHECK(e.agreement == 1);
  for (size_t l = 0; l < 2; ++l) {
    REQUIRE(e.ch_index[l]);
    CHECK(*e.ch_index[l] > 1);
    for (size_t i = 0; i < e.expert_cosine[l].size(); ++i)
      CHECK(e.expert_cosine[l][i][i] == doctest::Approx(1).epsilon(1e-6));
  }
}

TEST_CASE("evaluation: slots that are empty under both rules are no agreement") {
  const tests::RandomModel random(config_of("linear > top_p(0.6) > top_capacity(factor(0.3)) > chosen"), 5);
  const HeldOut held_out = random_held_out(67);
  base::Threads threads(1);
  const Expected decode = expected(random.model(), held_out, {});
  const Expected training = expected(random.model(), held_out, {.rule = moe::Rule::kTraining});
  const Agreement agreement(decode, training);
  CHECK(agreement.empty > 0);
  CHECK(evaluate(random.model(), held_out, {}, threads).agreement ==
        doctest::Approx(static_cast<double>(agreement.same) / agreement.all));
}

TEST_CASE("evaluation: without a token no loss is known") {
  const tests::RandomModel random(config_of(""), 7);
  base::Threads threads(1);
  const Evaluation e = evaluate(random.model(), {{"a"}, {}}, {}, threads);
  CHECK(std::isnan(e.loss));
  CHECK(std::isnan(e.domains[0].loss_training_rule));
}

TEST_CASE("evaluation: targets that do not count are not counted") {
  const tests::RandomModel random(config_of(""), 7);
  HeldOut some = random_held_out(67);
  for (TokenBatch& batch : some.batches)
    for (size_t t = 0; t < batch.targets.size(); ++t)
      if (t % kLength != 3) batch.targets[t] = -1;
  base::Threads threads(1);
  const Evaluation e = evaluate(random.model(), some, {}, threads);
  CHECK(e.tokens == 9);
  CHECK(e.domains[0].tokens == 6);
  CHECK(e.loss > 1);
}

}  // namespace
}  // namespace choir::train
