#include "moe/score/linear.h"

#include <doctest/doctest.h>

#include "moe/reference/case.h"
#include "moe/reference/score_case.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 9, kExperts = 5, kWidth = 7;

TEST_CASE("linear score: forward and backward agree with the reference and its complex step") {
  const auto x = reference::random(kTokens * kWidth, 1, 1), w = reference::random(kExperts * kWidth, 1, 2);
  const auto dz = reference::random(kTokens * kExperts, 1, 3);
  std::vector<double> variables = x;
  variables.insert(variables.end(), w.begin(), w.end());
  const auto derivative = complex_step(variables, [&](const std::vector<std::complex<double>>& v) {
    const auto middle = v.begin() + kTokens * kWidth;
    const auto z = reference::linear<std::complex<double>>({v.begin(), middle}, {middle, v.end()}, kWidth);
    std::complex<double> loss = 0;
    for (size_t i = 0; i < z.size(); ++i) loss += dz[i] * z[i];
    return loss;
  });

  reference::Case c(kTokens, kWidth, kExperts);
  c.x = reference::narrow(x);
  c.tensor = {reference::narrow(w)};
  c.shape = {{kExperts, kWidth}};
  const auto weights = c.weights();
  const auto dzf = reference::narrow(dz);
  std::vector<float> z(dz.size()), dx(x.size(), 1.0f), dw(w.size(), -1.0f);
  const tensor::Matrix<float> tensors[] = {reference::matrix(dw, kWidth)};
  const LinearScore score;
  score.forward(c.context(weights), reference::matrix(z, kExperts));
  score.backward(c.context(weights), c.routing, reference::matrix(dzf, kExperts),
                 {reference::matrix(dx, kWidth), tensors, {}});
  CHECK(reference::error(reference::linear(x, w, kWidth), z) < 1e-5);
  for (float& v : dx) v -= 1;  // the backward adds to what is there
  for (float& v : dw) v += 1;
  const auto middle = derivative.begin() + kTokens * kWidth;
  CHECK(reference::error({derivative.begin(), middle}, dx) < 1e-5);
  CHECK(reference::error({middle, derivative.end()}, dw) < 1e-5);
}

using reference::widen;

std::vector<double> random_gradient() { return reference::random(kTokens * kExperts, 1, 3); }

TEST_CASE("linear score: the residual adds the scores of the layer before, and sends them a gradient") {
  LinearScore word;
  word.residual = true;
  reference::Case c(kTokens, kWidth, kExperts);
  c.fill_tensors(word);
  REQUIRE(c.tensor.size() == 2);
  c.previous = reference::narrow(reference::random(kTokens * kExperts, 1, 8));
  const auto got = reference::run_score(word, c, random_gradient());
  const auto w = widen(c.tensor[0]), g = widen(c.tensor[1]), before = widen(c.previous);
  auto z = reference::linear(widen(c.x), w, kWidth);
  const auto carried = reference::linear(before, g, kExperts);
  for (size_t i = 0; i < z.size(); ++i) z[i] += carried[i];
  CHECK(reference::error(z, got.z) < 1e-5);
  const auto here = reference::linear_backward(random_gradient(), widen(c.x), w, kWidth),
             back = reference::linear_backward(random_gradient(), before, g, kExperts);
  CHECK(reference::error(here.x, got.dx) < 1e-5);
  CHECK(reference::error(here.w, got.dtensor[0]) < 1e-5);
  CHECK(reference::error(back.x, got.dprevious) < 1e-5);
  CHECK(reference::error(back.w, got.dtensor[1]) < 1e-5);
  c.previous.clear();  // the first layer
  const auto first = reference::run_score(word, c, random_gradient());
  CHECK(reference::error(reference::linear(widen(c.x), w, kWidth), first.z) < 1e-5);
  CHECK(first.dtensor[1] == std::vector<float>(kExperts * kExperts));
}

TEST_CASE("linear score: a bias for each expert, with its gradient, beside the residual too") {
  for (const bool residual : {false, true}) {
    LinearScore word;
    word.bias = true;
    word.residual = residual;
    reference::Case c(kTokens, kWidth, kExperts);
    c.fill_tensors(word);
    REQUIRE(c.tensor.size() == (residual ? 3 : 2));
    CHECK(c.shape[1] == std::pair(1, kExperts));
    CHECK(word.tensors(kExperts, kWidth)[1].vector);
    CHECK(!word.is_cosine());
    if (residual) c.previous = reference::narrow(reference::random(kTokens * kExperts, 1, 8));
    const auto got = reference::run_score(word, c, random_gradient());
    auto z = reference::linear(widen(c.x), widen(c.tensor[0]), kWidth);
    std::vector<double> db(kExperts);
    for (size_t i = 0; i < z.size(); ++i) {
      z[i] += double(c.tensor[1][i % kExperts]);
      db[i % kExperts] += random_gradient()[i];
    }
    if (residual) {
      const auto carried = reference::linear(widen(c.previous), widen(c.tensor[2]), kExperts);
      for (size_t i = 0; i < z.size(); ++i) z[i] += carried[i];
    }
    CHECK(reference::error(z, got.z) < 1e-5);
    CHECK(reference::error(db, got.dtensor[1]) < 1e-5);
    const auto back = reference::linear_backward(random_gradient(), widen(c.x), widen(c.tensor[0]), kWidth);
    CHECK(reference::error(back.x, got.dx) < 1e-5);
    CHECK(reference::error(back.w, got.dtensor[0]) < 1e-5);
  }
}

// The factors of the jitter, made visible by an input of ones and a gate that picks one channel for each expert.
std::vector<float> factors(float jitter, uint64_t seed, Rule rule) {
  LinearScore word;
  word.jitter = jitter;
  reference::Case c(50, 40, 40);
  c.seed = seed;
  c.rule = rule;
  c.fill_tensors(word);
  std::fill(c.x.begin(), c.x.end(), 1.0f);
  for (size_t i = 0; i < c.tensor[0].size(); ++i) c.tensor[0][i] = i / 40 == i % 40 ? 1.0f : 0.0f;
  return reference::run_score(word, c, std::vector<double>(2000)).z;
}

TEST_CASE("linear score: jitter multiplies inputs by numbers near 1, from the seed, in training alone") {
  const auto u = factors(0.25f, 7, Rule::kTraining);
  double mean = 0, square = 0;
  for (const float v : u) {
    CHECK((v >= 0.75f && v <= 1.25f));
    mean += double(v) / 2000;
    square += double(v - 1) * double(v - 1) / 2000;
  }
  CHECK(std::abs(mean - 1) < 4 * 0.25 / std::sqrt(3 * 2000.0));  // four standard errors
  CHECK(square == doctest::Approx(0.0625 / 3).epsilon(0.1));
  CHECK(factors(0.25f, 7, Rule::kTraining) == u);
  CHECK(factors(0.25f, 8, Rule::kTraining) != u);
  CHECK(factors(0.25f, 7, Rule::kDecode) == std::vector<float>(2000, 1.0f));
  CHECK(factors(0, 7, Rule::kTraining) == std::vector<float>(2000, 1.0f));
}

TEST_CASE("linear score: with jitter the backward is that of the jittered input") {
  LinearScore word;
  word.jitter = 0.25f;
  reference::Case c(kTokens, kWidth, kExperts), ones(kTokens, kWidth, kWidth);
  c.fill_tensors(word);
  ones.fill_tensors(word);
  std::fill(ones.x.begin(), ones.x.end(), 1.0f);
  for (int i = 0; i < kWidth * kWidth; ++i) ones.tensor[0][size_t(i)] = i / kWidth == i % kWidth ? 1.0f : 0.0f;
  const auto u = widen(reference::run_score(word, ones, std::vector<double>(kTokens * kWidth)).z);
  auto x = widen(c.x);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= u[i];
  const auto w = widen(c.tensor[0]);
  const auto got = reference::run_score(word, c, random_gradient());
  auto want = reference::linear_backward(random_gradient(), x, w, kWidth);
  for (size_t i = 0; i < x.size(); ++i) want.x[i] *= u[i];
  CHECK(reference::error(reference::linear(x, w, kWidth), got.z) < 1e-5);
  CHECK(reference::error(want.x, got.dx) < 1e-5);
  CHECK(reference::error(want.w, got.dtensor[0]) < 1e-5);
}

TEST_CASE("linear score: an orthogonal gate says so, and needs a channel for each expert") {
  LinearScore word;
  word.residual = true;
  CHECK(word.misfit(9, 8).empty());
  word.orthogonal = true;
  CHECK(word.misfit(8, 8).empty());
  CHECK(!word.misfit(9, 8).empty());
  const auto tensors = word.tensors(8, 8);
  CHECK((tensors[0].orthogonal && !tensors[1].orthogonal));
  CHECK(!LinearScore{}.tensors(8, 8)[0].orthogonal);
}

TEST_CASE("linear score: proposals may compare the sigmoid or the root of the softplus") {
  std::vector<float> z;
  for (int i = -40; i <= 40; ++i) z.push_back(static_cast<float>(i) * 0.75f);
  LinearScore word;
  CHECK(!word.selects());
  for (const SelectBy by : {SelectBy::kSigmoid, SelectBy::kSqrtSoftplus}) {
    word.select_by = by;
    CHECK(word.selects());
    reference::Case c(1, 1, 81);
    std::vector<float> key = z;
    word.select(c.context(), reference::matrix(z, 81), reference::matrix(key, 81));
    for (size_t i = 0; i < z.size(); ++i) {
      const double v = double(z[i]);
      CHECK(key[i] ==
            doctest::Approx(by == SelectBy::kSigmoid ? reference::sigmoid(v) : std::sqrt(reference::softplus(v)))
                .epsilon(1e-5));
    }
  }
}

}  // namespace
}  // namespace choir::moe
