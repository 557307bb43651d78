#include "compress/ridge.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "compress/repair_case.h"

namespace choir::compress {
namespace {

constexpr const char* kTopTwo = "linear > top_k(2) > all > chosen";
const std::vector<int> kKept{0, 2, 3, 5, 6};

// w2 (D,F) that minimises sum w |R - b W h|^2 + lambda |W - W0|^2 by gradient descent, in plain loops.
struct Descent {
  std::vector<Row> h, target;
  std::vector<double> gain, weight;

  Row solve(Row w, double lambda) const {
    const size_t f = h[0].size(), d = target[0].size();
    const Row start = w;
    double steepest = lambda;
    for (size_t t = 0; t < h.size(); ++t)
      for (const double v : h[t]) steepest += weight[t] * gain[t] * gain[t] * v * v;
    for (int step = 0; step < 20000; ++step) {
      Row slope(w.size());
      for (size_t i = 0; i < w.size(); ++i) slope[i] = lambda * (w[i] - start[i]);
      for (size_t t = 0; t < h.size(); ++t)
        for (size_t k = 0; k < d; ++k) {
          double error = -target[t][k];
          for (size_t j = 0; j < f; ++j) error += gain[t] * w[k * f + j] * h[t][j];
          for (size_t j = 0; j < f; ++j) slope[k * f + j] += weight[t] * gain[t] * error * h[t][j];
        }
      for (size_t i = 0; i < w.size(); ++i) w[i] -= slope[i] / steepest;
    }
    return w;
  }
};

// One expert left, one choice: its targets are the full layer's outputs.
TEST_CASE("ridge: a refit is the minimum that plain descent finds") {
  const RepairCase c("linear > top_k(1) > all > sigmoid", 3);
  std::vector<double> weight;
  for (int t = 0; t < RepairCase::kTokens; ++t) weight.push_back(0.5 + t % 3);
  const Model base = c.kept({1}, GainPolicy::kReroute);
  const auto& moe = base.tensors().blocks[0].moe;
  Descent descent;
  const std::vector<Row> x = as_rows(c.inputs());
  double diagonal = 0;
  for (size_t t = 0; t < x.size(); ++t) {
    Row h = plain_product(moe.w1[0], x[t]);
    const Row up = plain_product(moe.w3[0], x[t]);
    for (size_t i = 0; i < h.size(); ++i) h[i] = h[i] / (1 + std::exp(-h[i])) * up[i];
    const double gain = 1 / (1 + std::exp(-plain_product(moe.gate[0], x[t])[0]));
    for (const double v : h) diagonal += weight[t] * gain * gain * v * v / static_cast<double>(h.size());
    descent.h.push_back(h);
    descent.gain.push_back(gain);
  }
  descent.target = as_rows(c.target().z);
  descent.weight = weight;
  const std::vector<float> start = numbers_of(moe.w2[0]);
  const Row expected = descent.solve({start.begin(), start.end()}, 0.1 * diagonal);
  base::Threads threads(2);
  const RidgeRefit refit = refit_down(base, 0, c.target(weight), {0.1, 1}, threads);
  const std::vector<float> got = numbers_of(refit.model.tensors().blocks[0].moe.w2[0]);
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(expected[i] - static_cast<double>(got[i])));
  CHECK(worst < 1e-4);
}

TEST_CASE("ridge: the loss it names is the layer's, and never rises") {
  base::Threads threads(2);
  for (const GainPolicy policy : {GainPolicy::kReroute, GainPolicy::kDrop, GainPolicy::kNovice}) {
    const RepairCase c(kTopTwo, 8);
    const Model base = c.kept(kKept, policy);
    const double before = c.loss_of(base);
    double last = before;
    for (const int sweeps : {1, 2, 5}) {
      const RidgeRefit refit = refit_down(base, 0, c.target(), {1e-3, sweeps}, threads);
      CHECK(refit.before == doctest::Approx(before).epsilon(1e-6));
      CHECK(refit.after == doctest::Approx(c.loss_of(refit.model)).epsilon(1e-5));
      CHECK(refit.after < last);
      last = refit.after;
    }
    CHECK(last < 0.9 * before);
  }
}

TEST_CASE("ridge: what is spoilt in the down projections alone is restored") {
  base::Threads threads(2);
  const RepairCase c(kTopTwo, 4);
  Mixture spoilt(c.model(), 0);
  for (tensor::Weight& w2 : spoilt.tensors.w2) {
    std::vector<float> numbers = numbers_of(w2);
    for (float& v : numbers) v = 0.3f * v + 0.05f;
    w2 = spoilt.renewed(w2, numbers);
  }
  const RidgeRefit refit = refit_down(spoilt.in(c.model(), 0), 0, c.target(), {1e-7, 30}, threads);
  CHECK(refit.after < 1e-3 * refit.before);
}

TEST_CASE("ridge: with nothing lost nothing changes, and an expert without tokens stays") {
  base::Threads threads(1);
  const RepairCase c(kTopTwo, 6, 1 << 20, [](TestModel& made) {
    float* gate = numbers_in(made.model->tensors().blocks[0].moe.gate[0]);
    std::fill_n(gate + 5 * 20, 20, 0.0f);
    for (int e = 0; e < 5; ++e) std::copy_n(gate, 20, gate + e * 20);  // equal keys: the lowest numbers are chosen
  });
  const RidgeRefit same = refit_down(c.model(), 0, c.target(), {1e-3, 1}, threads);
  CHECK(same.before < 1e-6);
  const Model base = c.kept({1, 2, 3}, GainPolicy::kReroute);
  const RidgeRefit refit = refit_down(base, 0, c.target(), {1e-3, 1}, threads);
  CHECK(refit.after < refit.before);
  CHECK(refit.model.tensors().blocks[0].moe.w2[2].data == base.tensors().blocks[0].moe.w2[2].data);
}

TEST_CASE("ridge: threads change no bit, and numbers keep their format") {
  const RepairCase c(kTopTwo, 8);
  base::Threads one(1), three(3);
  const Model base = c.kept(kKept, GainPolicy::kReroute);
  const RidgeRefit a = refit_down(base, 0, c.target(), {}, one), b = refit_down(base, 0, c.target(), {}, three);
  CHECK(a.after == b.after);
  for (size_t e = 0; e < kKept.size(); ++e)
    CHECK(numbers_of(a.model.tensors().blocks[0].moe.w2[e]) == numbers_of(b.model.tensors().blocks[0].moe.w2[e]));
  for (const tensor::DType type : {tensor::DType::kBF16, tensor::DType::kF16}) {
    Mixture narrow(base, 0);
    for (tensor::Weight& w2 : narrow.tensors.w2) {
      const std::vector<float> numbers = numbers_of(w2);
      w2 = narrow.made(type, {numbers.data(), w2.rows, w2.cols});
    }
    const RidgeRefit rounded = refit_down(narrow.in(base, 0), 0, c.target(), {}, one);
    CHECK(rounded.model.tensors().blocks[0].moe.w2[0].type == type);
    CHECK(rounded.after == doctest::Approx(c.loss_of(rounded.model)).epsilon(1e-5));
    CHECK(rounded.after < rounded.before);
  }
}

TEST_CASE("ridge: options and widths out of range are refused") {
  const RepairCase c(kTopTwo, 4);
  base::Threads threads(1);
  CHECK_THROWS_AS(refit_down(c.model(), 0, c.target(), {0, 1}, threads), base::Error);
  CHECK_THROWS_AS(refit_down(c.model(), 0, c.target(), {1e-3, 0}, threads), base::Error);
  model::Config wide = RepairCase::config_of(kTopTwo, 2);
  wide.layers[0].expert_width = kWidestRidge + 1;
  const TestModel model(wide);
  CHECK_THROWS_AS(refit_down(*model.model, 0, c.target(), {}, threads), base::Error);
}

TEST_CASE("layer inputs: what a layer's mixture receives is what the forward gives it") {
  model::Config config = small_config(4, 2, 3);
  const TestModel made(config);
  const auto batches = random_batches(2, 2, 9, config.vocab);
  base::Threads threads(2);
  std::vector<double> outputs, expected;
  std::vector<std::vector<double>> streams;
  layer_inputs(
      *made.model, batches,
      [&](int l, const LayerInputs& inputs) {
        const Matrix<const float> x = inputs.x;
        tensor::Buffer<float> z(static_cast<size_t>(x.rows) * 20);
        run_layer(*made.model, l, x, z.matrix(x.rows, 20), threads);
        double energy = 0;
        for (const float v : z.span()) energy += static_cast<double>(v) * v;
        outputs.push_back(energy);
        streams.emplace_back(inputs.stream.begin(), inputs.stream.end());
        CHECK(x.rows == 36);
      },
      threads);
  observe(
      *made.model, batches, {4, 4, 0},
      [&](int l, const LayerRecord& record) {
        for (int t = 0; t < record.tokens(); ++t)
          CHECK(streams[static_cast<size_t>(l)][static_cast<size_t>(t)] ==
                doctest::Approx(record.residual[static_cast<size_t>(t)]).epsilon(1e-5));
        double energy = 0;  // a layer with nobody answering loses all it gives
        for (int t = 0; t < record.tokens(); ++t) energy += squared_error(record, t, own_choice(record, t), {});
        expected.push_back(energy);
      },
      threads);
  REQUIRE(outputs.size() == 3);
  for (size_t l = 0; l < 3; ++l) CHECK(outputs[l] == doctest::Approx(expected[l]).epsilon(1e-5));
}

}  // namespace
}  // namespace choir::compress
