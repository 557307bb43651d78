#include "compress/skip.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

// w_2 / w_1 of every token of the first layer, by a softmax over all experts in double.
std::vector<double> plain_ratios(const Model& model, const std::vector<CalibrationBatch>& batches) {
  base::Threads threads(1);
  std::vector<double> ratios;
  for (const CalibrationBatch& batch : batches) {
    const auto sequences = sequences_of(batch);
    const model::ForwardPass pass(model, {batch.ids, sequences}, threads);
    const int d = model.config().width;
    const tensor::Buffer<float> h(batch.ids.size() * static_cast<size_t>(d)), middle(h.size());
    model::BlockActivations activations;
    pass.embed(h.matrix(pass.rows(), d));
    pass.attend(0, h.matrix(pass.rows(), d), nullptr, activations, middle.matrix(pass.rows(), d));
    for (const Row& x : as_rows(activations.normed.matrix(pass.rows(), d))) {
      Row weights = plain_product(model.tensors().blocks[0].moe.gate[0], x);
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w);
      for (double& w : weights) w /= sum;
      std::ranges::sort(weights, std::greater<>());
      ratios.push_back(weights[1] / weights[0]);
    }
  }
  std::ranges::sort(ratios);
  return ratios;
}

TEST_CASE("beta is the median ratio, and half of the tokens skip") {
  const TestModel made(small_config(6, 2, 2));
  base::Threads threads(2);
  for (const int length : {9, 10}) {
    std::vector<CalibrationBatch> batches = random_batches(2, 2, length, 31);
    const auto odd = random_batches(1, 1, length, 31, 3);
    batches.push_back(odd[0]);
    const SkipResult result = calibrate_skipping(*made.model, batches, threads);
    const std::vector<double> ratios = plain_ratios(*made.model, batches);
    const size_t n = ratios.size();
    const double median = n % 2 ? ratios[n / 2] : (ratios[n / 2 - 1] + ratios[n / 2]) / 2;
    double mean = 0;
    for (const double r : ratios) mean += r / static_cast<double>(n);
    CHECK(result.layers[0].beta == doctest::Approx(median).epsilon(1e-5));
    CHECK(result.layers[0].mean_ratio == doctest::Approx(mean).epsilon(1e-5));
    CHECK(result.layers[0].skipped_share == static_cast<double>(n / 2) / static_cast<double>(n));
    CHECK(result.config.layers[1].skip_beta == result.layers[1].beta);
  }
}

TEST_CASE("a model that skips already is calibrated as if it did not") {
  model::Config config = small_config(6, 2, 2);
  const TestModel plain(config);
  for (model::LayerConfig& layer : config.layers) layer.skip_beta = 0.9f;
  const TestModel skipping(config);
  base::Threads threads(1);
  const auto batches = random_batches(2, 2, 9, 31);
  const SkipResult a = calibrate_skipping(*plain.model, batches, threads);
  const SkipResult b = calibrate_skipping(*skipping.model, batches, threads);
  CHECK(a.config.layers == b.config.layers);
  CHECK(a.layers[1].beta != 0.9f);
  CHECK(skipping_model(*plain.model, a).config().layers[0].skip_beta == a.layers[0].beta);
}

TEST_CASE("skipping is refused where it is not defined") {
  const TestModel made(small_config(6, 3, 1)), sound(small_config(6, 2, 1));
  base::Threads threads(1);
  CHECK_THROWS_AS(calibrate_skipping(*made.model, random_batches(1, 1, 9, 31), threads), base::Error);
  CHECK_THROWS_AS(calibrate_skipping(*sound.model, {}, threads), base::Error);
  sound.numbers[0][40] = INFINITY;
  CHECK_THROWS_AS(calibrate_skipping(*sound.model, random_batches(1, 2, 30, 31), threads), base::Error);
}

TEST_CASE("skipping is refused where another admission would go") {
  base::Threads threads(1);
  for (const auto& [router, can] : {std::pair{"linear > top_k(2) > all > softmax + bias(0.1)", true},
                                    {"linear > top_k(2) > skip(0.3) > chosen", true},
                                    {"linear > top_k(2) > fifo(factor(1)) > softmax", false},
                                    {"linear > top_k(2) > fifo(etr_sum) > softmax + bias(0.1)", false},
                                    {"linear > groups(2, 1, 2) > all > chosen", false}}) {
    CAPTURE(router);
    model::Config config = small_config(6, 2, 1);
    config.layers[0].router = router;
    const TestModel made(config);
    const auto calibrate = [&] { calibrate_skipping(*made.model, random_batches(1, 1, 9, 31), threads); };
    if (can)
      CHECK_NOTHROW(calibrate());
    else
      CHECK_THROWS_AS(calibrate(), base::Error);
  }
}

}  // namespace
}  // namespace choir::compress
