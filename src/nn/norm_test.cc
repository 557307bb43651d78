// The kernels' numbers are compared with references beside them; here is what the choice between them does.
#include "nn/norm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace choir::nn {
namespace {

constexpr int kRows = 20, kCols = 18;
constexpr float kEpsilon = 1e-3f;

std::vector<float> random(int size, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = 0.5f + rng.normal();
  return values;
}

struct Layer {
  std::vector<float> scale = random(kCols, 1), bias, y = std::vector<float>(kRows * kCols);
  NormActivations activations;
  Threads threads{2};

  Norm norm() const { return {scale, bias, kEpsilon}; }
  void forward(const std::vector<float>& x) {
    norm_forward(norm(), {x.data(), kRows, kCols}, {y.data(), kRows, kCols}, activations, threads);
  }
};

// Plain loops in double.
double expected(const Layer& layer, const float* x, int column) {
  double mean = 0, squares = 0;
  for (int d = 0; d < kCols; ++d) mean += layer.bias.empty() ? 0 : static_cast<double>(x[d]) / kCols;
  for (int d = 0; d < kCols; ++d) squares += std::pow(static_cast<double>(x[d]) - mean, 2) / kCols;
  const double n = (static_cast<double>(x[column]) - mean) / std::sqrt(squares + static_cast<double>(kEpsilon));
  const auto c = static_cast<size_t>(column);
  return n * static_cast<double>(layer.scale[c]) + (layer.bias.empty() ? 0 : static_cast<double>(layer.bias[c]));
}

TEST_CASE("norm: RMS without a bias, LayerNorm with one") {
  for (const bool biased : {false, true}) {
    Layer layer;
    if (biased) layer.bias = random(kCols, 2);
    const auto x = random(kRows * kCols, 3);
    layer.forward(x);
    for (int i = 0; i < kRows * kCols; ++i)
      CHECK(layer.y[i] == doctest::Approx(expected(layer, x.data() + i / kCols * kCols, i % kCols)).epsilon(1e-4));
  }
}

// Central differences of sum dy * y.
TEST_CASE("norm: the backward of either") {
  for (const bool biased : {false, true}) {
    CAPTURE(biased);
    Layer layer;
    if (biased) layer.bias = random(kCols, 2);
    const auto x = random(kRows * kCols, 3), dy = random(kRows * kCols, 4);
    layer.forward(x);
    std::vector<float> dx(x.size(), 1), dscale(kCols, 1), dbias(layer.bias.size(), 1);
    norm_backward(layer.norm(), {dy.data(), kRows, kCols},
                  {{x.data(), kRows, kCols}, layer.activations, {dx.data(), kRows, kCols}, dscale, dbias},
                  layer.threads);
    const auto loss = [&](const Layer& at, const std::vector<float>& input) {
      double sum = 0;
      for (int i = 0; i < kRows * kCols; ++i)
        sum += static_cast<double>(dy[i]) * expected(at, input.data() + i / kCols * kCols, i % kCols);
      return sum;
    };
    const auto slope = [&](std::vector<float>& of, size_t i, const Layer& at, const std::vector<float>& input) {
      const float was = of[i], step = 0x1p-8f;
      of[i] = was + step;
      const double above = loss(at, input);
      of[i] = was - step;
      const double below = loss(at, input);
      of[i] = was;
      return (above - below) / (2 * static_cast<double>(step));
    };
    auto varied = x;
    for (const size_t i : {0, 17, 18, 200, 359})
      CHECK(dx[i] - 1 == doctest::Approx(slope(varied, i, layer, varied)).epsilon(2e-3));
    for (const size_t i : {0, 9, 17}) {
      CHECK(dscale[i] - 1 == doctest::Approx(slope(layer.scale, i, layer, x)).epsilon(2e-3));
      if (biased) CHECK(dbias[i] - 1 == doctest::Approx(slope(layer.bias, i, layer, x)).epsilon(2e-3));
    }
  }
}

TEST_CASE("norm: of weights, a bias without data is none") {
  const std::vector<float> scale = random(kCols, 1), bias = random(kCols, 2);
  const Weight s(Matrix<const float>(scale.data(), 1, kCols)), b(Matrix<const float>(bias.data(), 1, kCols));
  CHECK(Norm(s, {}, kEpsilon).bias.empty());
  CHECK(Norm(s, b, kEpsilon).bias.data() == bias.data());
  CHECK(Norm(s, b, kEpsilon).scale.data() == scale.data());
}

}  // namespace
}  // namespace choir::nn
