#include "moe/score/noisy.h"

#include "moe/reference/score.h"
#include "moe/reference/scores.h"

namespace choir::moe {
namespace {

using reference::widened;
constexpr int kTokens = 24, kWidth = 16, kExperts = 6;

struct Problem {
  reference::Case c;
  explicit Problem(double scale, uint64_t seed = 1) : c(kTokens, kWidth, kExperts, seed, scale) {
    c.fill_tensors(NoisyScore{});
  }
  std::vector<float> z() { return reference::score_of(NoisyScore{}, c); }
  // The noise, from the scores with and without it.
  std::vector<double> noise() {
    const auto spread = reference::linear(widened(c.x), widened(c.tensor[1]), kWidth);
    const auto clean = reference::linear(widened(c.x), widened(c.tensor[0]), kWidth);
    const auto noisy = z();
    std::vector<double> n;
    for (size_t i = 0; i < clean.size(); ++i)
      n.push_back((static_cast<double>(noisy[i]) - clean[i]) / reference::softplus(spread[i]));
    return n;
  }
};

TEST_CASE("noisy: text") { reference::check_text<NoisyScore>({"noisy"}, {"noisy(1)"}); }

TEST_CASE("noisy: evaluation sees no noise") {
  for (const double scale : {1e-3, 1.0, 10.0}) {
    Problem p(scale);
    p.c.rule = Rule::kDecode;
    CHECK(reference::error(reference::linear(widened(p.c.x), widened(p.c.tensor[0]), kWidth), p.z()) < 1e-5);
    const auto dz = reference::narrow(reference::random(kTokens * kExperts, 1, 9));
    const auto got = reference::backward_of(NoisyScore{}, p.c, dz);
    const auto want = reference::linear_backward(widened(dz), widened(p.c.x), widened(p.c.tensor[0]), kWidth);
    CHECK(reference::error(want.x, got.x) < 1e-5);
    CHECK(reference::error(want.w, got.tensors[0]) < 1e-5);
    for (const float d : got.tensors[1]) CHECK(d == 0);
  }
}

// With x = 0 the noise has the deviation softplus(0) = ln 2.
TEST_CASE("noisy: the noise is normal, a function of the seed and of the row") {
  constexpr int kMany = 20000;
  reference::Case c(kMany, 2, 4, 1, 0);
  c.fill_tensors(NoisyScore{});
  const auto z = reference::score_of(NoisyScore{}, c);
  double mean = 0, square = 0, fourth = 0;
  for (const float v : z) {
    const double n = static_cast<double>(v) / std::log(2.0), share = 1.0 / static_cast<double>(z.size());
    mean += n * share;
    square += n * n * share;
    fourth += n * n * n * n * share;
  }
  CHECK(std::abs(mean) < 0.02);
  CHECK(square == doctest::Approx(1).epsilon(0.02));
  CHECK(fourth == doctest::Approx(3).epsilon(0.05));
  CHECK(reference::score_of(NoisyScore{}, c) == z);
  c.rows = 10;
  CHECK(reference::score_of(NoisyScore{}, c) == std::vector<float>(z.begin(), z.begin() + 40));
  c.seed = 2;
  CHECK(reference::score_of(NoisyScore{}, c) != std::vector<float>(z.begin(), z.begin() + 40));
}

TEST_CASE("noisy: forward and backward agree with the reference") {
  for (const double scale : {1e-3, 0.3, 1.0, 5.0}) {
    CAPTURE(scale);
    Problem p(scale);
    Problem still(0);  // the same noise at x = 0, where it is known exactly
    still.c.x.assign(p.c.x.size(), 0.0f);
    const auto noise = still.noise();
    const auto x = widened(p.c.x), w = widened(p.c.tensor[0]), wn = widened(p.c.tensor[1]);
    CHECK(reference::error(reference::noisy(x, w, wn, noise, kWidth), p.z()) < 1e-5);
    const auto dz = reference::random(kTokens * kExperts, 1, 9);
    const auto want = reference::noisy_backward(dz, x, w, wn, noise, kWidth);
    const auto got = reference::backward_of(NoisyScore{}, p.c, reference::narrow(dz));
    CHECK(reference::error(want.x, got.x) < 1e-5);
    CHECK(reference::error(want.w, got.tensors[0]) < 1e-5);
    CHECK(reference::error(want.wn, got.tensors[1]) < 1e-5);
  }
}

TEST_CASE("noisy: the same bits for any number of threads") {
  Problem p(1);
  const auto z = p.z();
  const auto list = p.c.weights();
  base::Threads one(1);
  const Context context = p.c.context(list);
  std::vector<float> alone(z.size());
  NoisyScore{}.forward({.tokens = context.tokens,
                        .experts = kExperts,
                        .tensors = list,
                        .state = {},
                        .shares = {},
                        .rule = context.rule,
                        .seed = context.seed,
                        .threads = one},
                       reference::matrix(alone, kExperts));
  CHECK(alone == z);
}

}  // namespace
}  // namespace choir::moe
