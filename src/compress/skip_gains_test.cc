#include "compress/skip_gains.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "compress/skip.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

// Gives its values one after another.
struct Script {
  std::vector<double> values;
  size_t next = 0;

  double operator()(const Model&) { return values.at(next++); }
};

constexpr size_t kTrials = 12;

TEST_CASE("skip gains: the least value wins, whatever made it, and its model is returned") {
  base::Threads threads(2);
  const auto batches = random_batches(2, 8, 30, 31);
  for (const char* router : {"", "linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5) + bias(0.1)",
                             "linear > top_k(3) > all > softmax(scale=2)"}) {
    CAPTURE(router);
    model::Config config = small_config(6, 3, 2);
    for (model::LayerConfig& layer : config.layers) layer.router = router;
    const TestModel made(config);
    const std::string own = made.model->router(0).expression();
    for (size_t wanted = 0; wanted < kTrials; wanted += 3) {
      Script script{std::vector<double>(kTrials, 2.0)};
      script.values[wanted] = 1;
      script.values.back() = wanted + 1 == kTrials ? 1 : 1.5;
      const GainChoice choice =
          choose_gains(*made.model, batches, {.by = moe::Skip::By::kTail, .keep = 0.7}, std::ref(script), threads);
      REQUIRE(choice.trials.size() == kTrials);
      CHECK(choice.best == wanted);
      const GainTrial& best = choice.trials[wanted];
      CHECK(best.value == 1);
      CHECK((best.kept_share <= 0.7 && best.kept_share > 0.65));
      const std::string text = choice.model.router(1).expression();
      CHECK((text.find("factors") != std::string::npos) == (best.amend == Amend::kFactors));
      CHECK((text.find("channels=20") != std::string::npos) ==
            (best.amend == Amend::kMoments || best.amend == Amend::kLinear));
      CHECK(text.find("> " + choice.policy.layers[1].weights) != std::string::npos);
      if (best.divisors == Divisors::kOwn) CHECK(moe::with_admission(text, "all") == moe::with_admission(own, "all"));
      CHECK(choice.policy.frontier.size() == 11);
    }
  }
}

TEST_CASE("skip gains: a model that was amended is calibrated as if it did not skip") {
  base::Threads threads(1);
  const auto batches = random_batches(1, 8, 30, 31);
  const TestModel made(small_config(6, 2, 2));
  Script script{{2, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2}};
  const GainChoice choice = choose_gains(*made.model, batches, {.keep = 0.7}, std::ref(script), threads);
  REQUIRE(choice.model.router(0).state_size(6) > 0);
  const SkipBudget budget{.keep = 0.8};
  const BudgetResult again = budget_skipping(choice.model, batches, budget, threads),
                     plain = budget_skipping(*made.model, batches, budget, threads);
  CHECK(again.layers[1].weights == plain.layers[1].weights);
  CHECK(again.layers[1].threshold == plain.layers[1].threshold);
  CHECK(skipping_model(choice.model, again).router(1).state_size(6) == 0);
  CHECK_NOTHROW(skipping_model(choice.model, calibrate_skipping(choice.model, batches, threads)));
}

TEST_CASE("skip gains: kept divides by what stays where a word can say so") {
  base::Threads threads(1);
  const auto batches = random_batches(1, 4, 30, 31);
  for (const auto& [router, word] :
       {std::pair{"linear > top_k(3) > all > softmax(renorm)", "chosen"},
        {"linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5)", "sigmoid_norm(scale=2.5, kept)"},
        {"linear > top_k(3) > all > sigmoid", "sigmoid"}}) {
    model::Config config = small_config(6, 3, 1);
    config.layers[0].router = router;
    const TestModel made(config);
    const SkipBudget budget{.by = moe::Skip::By::kTail, .keep = 0.7, .divisors = Divisors::kKept};
    CHECK(budget_skipping(*made.model, batches, budget, threads).layers[0].weights == word);
  }
}

TEST_CASE("skip gains: refuses a budget that cannot be") {
  const TestModel made(small_config(6, 2, 1));
  base::Threads threads(1);
  const Judge judge = [](const Model&) { return 0.0; };
  CHECK_THROWS_AS(choose_gains(*made.model, random_batches(1, 1, 9, 31), {.keep = 0.4}, judge, threads), base::Error);
}

}  // namespace
}  // namespace choir::compress
