#include "compress/skip_amends.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "compress/layer_run.h"
#include "compress/mixture.h"
#include "compress/test_model.h"

namespace choir::compress {
namespace {

constexpr int kWidth = 20, kVocab = 31;

// A model, itself while it skips, and what layer 1 receives and gives of some tokens.
struct Problem {
  TestModel made;
  Model skipping;
  base::Threads threads{2};
  std::vector<CalibrationBatch> batches = random_batches(3, 16, 30, kVocab);
  SkipAmends amends;
  tensor::Buffer<float> x, z;
  int tokens = 0;
  std::vector<double> stream;  // [N] |h|^2
  std::vector<int> stay;       // [N] experts of the skipping layer

  explicit Problem(const std::string& router, const std::string& skip)
      : made(config_of(router)),
        skipping(made.model->with_admission(skip)),
        amends(*made.model, skipping, batches, threads) {
    layer_inputs(
        *made.model, batches,
        [&](int l, const LayerInputs& in) {
          if (l != 1) return;
          tokens = in.x.rows;
          for (tensor::Buffer<float>* buffer : {&x, &z}) buffer->reserve(static_cast<size_t>(tokens) * kWidth);
          std::copy_n(in.x.data, static_cast<size_t>(tokens) * kWidth, x.data());
          stream.assign(in.stream.begin(), in.stream.end());
        },
        threads);
    run_layer(*made.model, 1, inputs(), z.matrix(tokens, kWidth), threads);
    moe::MoeActivations activations;
    const tensor::Buffer<float> y(static_cast<size_t>(tokens) * kWidth);
    moe::MoeStep step;
    step.tokens.x = inputs();
    step.output = y.matrix(tokens, kWidth);
    moe::moe_forward(skipping.router(1), skipping.tensors().blocks[1].moe, step, activations, threads);
    stay.resize(static_cast<size_t>(tokens));
    for (const int32_t t : activations.routing.plan.token) ++stay[static_cast<size_t>(t)];
  }

  static model::Config config_of(const std::string& router) {
    model::Config config = small_config(6, 3, 2);
    for (model::LayerConfig& layer : config.layers) layer.router = router;
    return config;
  }

  tensor::Matrix<const float> inputs() const { return x.matrix(tokens, kWidth); }

  std::vector<Row> outputs(const Model& model) {
    const tensor::Buffer<float> y(static_cast<size_t>(tokens) * kWidth);
    run_layer(model, 1, inputs(), y.matrix(tokens, kWidth), threads);
    return as_rows(y.matrix(tokens, kWidth));
  }

  std::vector<float> state_of(const Model& model) const {
    const tensor::Weight& state = model.tensors().blocks[1].moe.state;
    const auto* numbers = static_cast<const float*>(state.data);
    return {numbers, numbers + (numbers ? state.size() : 0)};
  }
};

// Routers and rules by which some tokens keep one expert, some two and some three.
struct Rule {
  const char *router, *skip;
};
constexpr Rule kRules[] = {{"linear > top_k(3) > all > chosen", "skip(ser=0.3)"},
                           {"linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5) + bias(0.1)", "skip(ser=0.7)"}};

TEST_CASE("skip amends: factors are the weighed least squares of whole outputs") {
  for (const Rule& rule : kRules) {
    Problem p(rule.router, rule.skip);
    const auto y = p.outputs(p.skipping), z = as_rows(p.z.matrix(p.tokens, kWidth));
    const auto dot = [](const Row& a, const Row& b) {
      double sum = 0;
      for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
      return sum;
    };
    const std::vector<float> state = p.state_of(p.amends.model(Amend::kFactors));
    for (const int stay : {1, 2}) {
      double yz = 0, yy = 0;
      for (size_t t = 0; t < z.size(); ++t) {
        if (p.stay[t] != stay) continue;
        yz += dot(y[t], z[t]) / (p.stream[t] + dot(z[t], z[t]));
        yy += dot(y[t], y[t]) / (p.stream[t] + dot(z[t], z[t]));
      }
      CHECK(static_cast<double>(state[static_cast<size_t>(stay) - 1]) == doctest::Approx(yz / yy).epsilon(1e-5));
    }
  }
}

// Mean and covariance of two channels over the tokens of which `stay` experts stay.
struct Joint {
  double n = 0, a = 0, b = 0, aa = 0, bb = 0, ab = 0;

  Joint(const std::vector<Row>& one, const std::vector<Row>& other, const std::vector<int>& stays, int stay, size_t d) {
    for (size_t t = 0; t < one.size(); ++t) n += stays[t] == stay;
    for (size_t t = 0; t < one.size(); ++t) {
      if (stays[t] != stay) continue;
      a += one[t][d] / n;
      b += other[t][d] / n;
    }
    for (size_t t = 0; t < one.size(); ++t) {
      if (stays[t] != stay) continue;
      aa += (one[t][d] - a) * (one[t][d] - a) / n;
      bb += (other[t][d] - b) * (other[t][d] - b) / n;
      ab += (one[t][d] - a) * (other[t][d] - b) / n;
    }
  }
};

TEST_CASE("skip amends: moments are those of the full output; what linear leaves has nothing to do with the output") {
  for (const Rule& rule : kRules) {
    Problem p(rule.router, rule.skip);
    const auto z = as_rows(p.z.matrix(p.tokens, kWidth)), y = p.outputs(p.skipping);
    const auto moments = p.outputs(p.amends.model(Amend::kMoments)), linear = p.outputs(p.amends.model(Amend::kLinear));
    std::vector<Row> left = z;
    for (size_t t = 0; t < left.size(); ++t)
      for (size_t d = 0; d < kWidth; ++d) left[t][d] -= linear[t][d];
    for (const int stay : {1, 2}) {
      REQUIRE(std::ranges::count(p.stay, stay) >= 128);
      for (size_t d = 0; d < kWidth; ++d) {
        const Joint matched(z, moments, p.stay, stay, d), rest(left, y, p.stay, stay, d);
        CHECK(matched.b == doctest::Approx(matched.a).epsilon(1e-4));
        CHECK(matched.bb == doctest::Approx(matched.aa).epsilon(1e-4));
        CHECK(std::abs(rest.a) < 1e-5 * std::sqrt(matched.aa));
        CHECK(std::abs(rest.ab) < 1e-5 * std::sqrt(matched.aa * rest.bb));
      }
    }
    for (size_t t = 0; t < z.size(); ++t)
      if (p.stay[t] == 3) CHECK(moments[t] == y[t]);  // nothing was skipped
  }
}

TEST_CASE("skip amends: another admission takes them away, and leaves the router's other numbers") {
  Problem p(kRules[1].router, kRules[1].skip);
  const std::vector<float> bias = p.state_of(*p.made.model);
  for (const Amend amend : {Amend::kFactors, Amend::kMoments, Amend::kLinear}) {
    const Model amended = p.amends.model(amend);
    const std::vector<float> state = p.state_of(amended);
    CHECK(state.size() == 6 + (amend == Amend::kFactors ? 2 : 4 * kWidth));
    CHECK(std::vector<float>(state.end() - 6, state.end()) == bias);
    CHECK(amended.router(1).admission().find(amend == Amend::kFactors ? ", factors)" : ", channels=20)") !=
          std::string::npos);
    CHECK(p.outputs(amended) != p.outputs(p.skipping));
    for (const std::string word : {"all", kRules[1].skip, "skip(count=1)"}) {
      const Model other = amended.with_admission(word);
      CHECK(p.state_of(other) == bias);
      CHECK(p.outputs(other) == p.outputs(p.made.model->with_admission(word)));
    }
    const Model anew = amended.with_admission("skip(ser=0.7, factors)");
    CHECK(p.state_of(anew).size() == 8);
    CHECK(p.outputs(anew) == p.outputs(p.skipping));
  }
  CHECK(p.outputs(p.amends.model(Amend::kNone)) == p.outputs(p.skipping));
}

TEST_CASE("skip amends: a shared expert and a dense layer are no part of them") {
  base::Threads threads(1);
  const auto batches = random_batches(2, 8, 30, kVocab);
  model::Config config = small_config(6, 3, 2);
  std::vector<std::vector<float>> numbers;
  for (const int width : {0, 9}) {
    config.layers[1].shared_width = width;
    const TestModel made(config);
    const Model skipping = made.model->with_admission("skip(ser=0.3)");
    const Model amended = SkipAmends(*made.model, skipping, batches, threads).model(Amend::kLinear);
    numbers.push_back(numbers_of(amended.tensors().blocks[1].moe.state));
  }
  CHECK(numbers[0] == numbers[1]);
  config.layers[0] = {};
  config.layers[0].shared_width = 9;
  const TestModel dense(config);
  const Model skipping = dense.model->with_admission("skip(ser=0.3)");
  const Model amended = SkipAmends(*dense.model, skipping, batches, threads).model(Amend::kFactors);
  CHECK(amended.config().layers[0] == config.layers[0]);
  CHECK(amended.router(1).state_size(6) == 2);
}

TEST_CASE("skip amends: few tokens amend nothing") {
  const TestModel made(small_config(6, 3, 1));
  base::Threads threads(1);
  const Model skipping = made.model->with_admission("skip(count=1)");
  const SkipAmends amends(*made.model, skipping, random_batches(1, 1, 15, kVocab), threads);
  for (const Amend amend : {Amend::kFactors, Amend::kMoments}) {
    const Model amended = amends.model(amend);
    const auto numbers = numbers_of(amended.tensors().blocks[0].moe.state);
    for (size_t i = 0; i < numbers.size(); ++i)
      CHECK(numbers[i] == (amend == Amend::kFactors || i % (2 * kWidth) < kWidth ? 1 : 0));
  }
}

}  // namespace
}  // namespace choir::compress
