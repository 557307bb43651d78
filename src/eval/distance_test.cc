#include "eval/distance.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tests/random_model.h"

namespace choir::eval {
namespace {

using doctest::Approx;

std::vector<double> probabilities(const float* logits, int vocab) {
  std::vector<double> p;
  double sum = 0;
  for (int v = 0; v < vocab; ++v) {
    p.push_back(std::exp(static_cast<double>(logits[v])));
    sum += p.back();
  }
  for (double& x : p) x /= sum;
  return p;
}

TEST_CASE("a model is no distance from itself") {
  const tests::RandomModel random(tests::small_config(), 1);
  const std::vector<Document> texts = {{tests::random_ids(60, 67, 2), 60}};
  base::Threads threads(2);
  const Distance same = distance(random.model(), random.model(), texts, {}, threads);
  CHECK(same.tokens == 59);
  CHECK(same.kl_mean == 0);
  CHECK(same.kl_p99 == 0);
  CHECK(same.top1_agreement == 1);
  CHECK(same.perplexity == same.perplexity_other);
  const Perplexity alone = perplexity(random.model(), texts, {}, threads);
  CHECK(same.perplexity == Approx(alone.perplexity()).epsilon(1e-6));
}

TEST_CASE("the distance is what plain loops say, and it has a direction") {
  const tests::RandomModel random(tests::small_config(), 3);
  model::Config config = random.model().config();
  config.layers[0].top_k = 1;
  const Model other(config, random.model().tensors());
  const auto ids = tests::random_ids(101, 67, 4);
  const std::vector<Document> texts = {{ids, 0}};
  base::Threads threads(3);
  const Distance found = distance(random.model(), other, texts, {}, threads);

  const std::vector<int32_t> inputs(ids.begin(), ids.end() - 1);
  const auto a = tests::all_logits(random.model(), inputs, 1), b = tests::all_logits(other, inputs, 1);
  std::vector<double> kl;
  double sum = 0, agree = 0, nll = 0, nll_other = 0;
  for (int t = 0; t < 100; ++t) {
    const auto p = probabilities(&a[t * 67], 67), q = probabilities(&b[t * 67], 67);
    kl.push_back(0);
    for (int v = 0; v < 67; ++v) kl.back() += p[v] * std::log(p[v] / q[v]);
    sum += kl.back();
    agree += std::ranges::max_element(p) - p.begin() == std::ranges::max_element(q) - q.begin();
    nll -= std::log(p[ids[t + 1]]);
    nll_other -= std::log(q[ids[t + 1]]);
  }
  std::ranges::sort(kl);
  CHECK(found.tokens == 100);
  CHECK(found.kl_mean == Approx(sum / 100).epsilon(1e-9));
  CHECK(found.kl_p99 == Approx(kl[98]).epsilon(1e-9));  // the 99th of 100
  CHECK(found.top1_agreement == Approx(agree / 100));
  CHECK(found.top1_agreement < 1);
  CHECK(found.perplexity == Approx(std::exp(nll / 100)).epsilon(1e-9));
  CHECK(found.perplexity_other == Approx(std::exp(nll_other / 100)).epsilon(1e-9));
  CHECK(distance(other, random.model(), texts, {}, threads).kl_mean != Approx(found.kl_mean).epsilon(1e-5));
}

TEST_CASE("other vocabularies are refused, shorter contexts are shared") {
  const tests::RandomModel random(tests::small_config(), 5);
  model::Config config = random.model().config();
  base::Threads threads(1);
  const std::vector<Document> texts = {{tests::random_ids(100, 67, 6), 0}};
  config.max_positions = 20;
  const Model shorter(config, random.model().tensors());
  CHECK(distance(random.model(), shorter, texts, {}, threads).kl_mean == 0);
  CHECK_THROWS_AS(distance(random.model(), shorter, texts, {21, 0}, threads), base::Error);
  config.vocab = 68;
  const tests::RandomModel wider(config, 7);
  CHECK_THROWS_AS(distance(random.model(), wider.model(), texts, {}, threads), base::Error);
}

}  // namespace
}  // namespace choir::eval
