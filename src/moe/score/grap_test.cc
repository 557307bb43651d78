#include "moe/score/grap.h"

#include "base/error.h"
#include "moe/reference/score_case.h"
#include "moe/score/dense_cosine.h"

namespace choir::moe {
namespace {

using reference::Case;
using reference::run_score;
using reference::widen;
using Reals = std::vector<double>;

constexpr int kTokens = 11, kWidth = 22;
const double kRoot = std::sqrt(static_cast<double>(kWidth));

std::vector<int32_t> bounds(int experts, int width) {
  base::Threads threads(1);
  base::Frame frame(threads);
  const auto bound = block_bounds(experts, width, frame);
  return {bound.begin(), bound.end()};
}

Reals gradient_in(int experts) { return reference::random(static_cast<size_t>(kTokens * experts), 1, 50); }

TEST_CASE("grap: forward and backward agree with the reference, blocks of equal and unequal size") {
  for (const int experts : {1, 2, 4, 5, 22})
    for (const double eps : {0.0, 0.25, -0.125})
      for (const double scale : {1e-2, 1.0, 100.0}) {
        CAPTURE(experts);
        Case c(kTokens, kWidth, experts, 1, scale);
        const Reals dz = gradient_in(experts), x = widen(c.x);
        const auto got = run_score(GrapScore{static_cast<float>(eps)}, c, dz);
        CHECK(reference::error(reference::grap(x, kWidth, size_t(experts), eps), got.z) < 1e-5);
        CHECK(reference::error(reference::grap_backward(dz, x, kWidth, size_t(experts), eps), got.dx) < 1e-6);
      }
}

TEST_CASE("grap_cosine: forward and backward agree with the reference, fixed and learnt, kappa given and not") {
  for (const bool learn : {false, true})
    for (const int experts : {1, 2, 4, 5, 22})
      for (const double scale : {1e-2, 1.0, 100.0}) {
        CAPTURE(learn);
        CAPTURE(experts);
        GrapCosineScore word;
        word.learn = learn;
        if (experts == 4) word.kappa = 3.0f;
        const double kappa = experts == 4 ? 3 : kRoot;
        Case c(kTokens, kWidth, experts, 1, scale);
        c.fill_tensors(word);
        const Reals dz = gradient_in(experts), x = widen(c.x);
        const auto got = run_score(word, c, dz);
        if (learn) {
          const Reals w = widen(c.tensor[0]);
          CHECK(reference::error(reference::grap_learned(x, w, size_t(experts), kappa), got.z) < 1e-5);
          const auto want = reference::grap_learned_backward(dz, x, w, size_t(experts), kappa);
          CHECK(reference::error(want.x, got.dx) < 2e-5);
          CHECK(reference::beside(kappa, want.w, got.dtensor[0]) <
                (experts == kWidth ? 1e-4 : 1e-5));  // one channel alone has none
        } else {
          CHECK(reference::error(reference::grap_cosine(x, kWidth, size_t(experts), kappa), got.z) < 1e-5);
          CHECK(reference::error(reference::grap_cosine_backward(dz, x, kWidth, size_t(experts), kappa), got.dx) <
                2e-5);
        }
      }
}

TEST_CASE("grap_cosine: squares of a token's cosines sum to at most 1") {
  for (const int experts : {1, 3, 7, 22}) {
    GrapCosineScore word;
    word.kappa = 1;
    Case c(200, kWidth, experts);
    const auto got = run_score(word, c, Reals(size_t(200 * experts)));
    for (int t = 0; t < 200; ++t) {
      double sum = 0;
      for (int e = 0; e < experts; ++e) sum += std::pow(static_cast<double>(got.z[size_t(t * experts + e)]), 2);
      CHECK(sum < 1 + 1e-5);
    }
  }
}

TEST_CASE("grap_cosine: the length of a token changes nothing, and no gradient points along it") {
  for (const bool learn : {false, true}) {
    GrapCosineScore word;
    word.learn = learn;
    Case c(kTokens, kWidth, 5), longer(kTokens, kWidth, 5);
    c.fill_tensors(word);
    longer.fill_tensors(word);
    for (float& v : longer.x) v *= 1024;  // exact
    const Reals dz = gradient_in(5);
    const auto got = run_score(word, c, dz), far = run_score(word, longer, dz);
    CHECK(got.z == far.z);
    for (int t = 0; t < kTokens; ++t) {
      double along = 0;
      for (int j = 0; j < kWidth; ++j)
        along += double(c.x[size_t(t * kWidth + j)]) * double(got.dx[size_t(t * kWidth + j)]);
      CHECK(std::abs(along) < 1e-5);
    }
    for (size_t i = 0; i < got.dx.size(); ++i) CHECK(got.dx[i] == doctest::Approx(1024 * far.dx[i]).epsilon(1e-4));
  }
}

TEST_CASE("grap_cosine: a zero vector has cosine 0 and no gradient; a zero gate too") {
  for (const bool learn : {false, true}) {
    GrapCosineScore word;
    word.learn = learn;
    Case c(2, kWidth, 5);
    c.fill_tensors(word);
    std::fill_n(c.x.begin(), kWidth, 0.0f);
    if (learn) std::fill_n(c.tensor[0].begin(), bounds(5, kWidth)[1], 0.0f);  // the block of expert 0
    const auto got = run_score(word, c, reference::random(10, 1, 3));
    for (int i = 0; i < 5; ++i) CHECK(got.z[size_t(i)] == 0);
    for (int j = 0; j < kWidth; ++j) CHECK(got.dx[size_t(j)] == 0);
    CHECK((got.z[5] == 0) == learn);
    for (const float v : got.dx) CHECK(std::isfinite(v));
  }
}

TEST_CASE("grap: the golden token, with blocks of equal and unequal size") {
  CHECK(bounds(4, 10) == std::vector<int32_t>{0, 2, 5, 7, 10});
  CHECK(bounds(3, 3) == std::vector<int32_t>{0, 1, 2, 3});
  Case c(1, 8, 2);
  c.x = {1, 2, 3, 4, -1, 0, 1, 2};
  CHECK(run_score(GrapScore{}, c, {1, 0}).z == std::vector<float>{2.5f, 0.5f});
  c.routing.plan.tokens = 1;
  GrapCosineScore word;
  const auto z = run_score(word, c, {0, 0}).z;
  CHECK(reference::beside(1, {2.3570226, 0.4714045}, z) < 1e-6);
  CHECK(std::abs(c.routing.probability[0] - 0.8682551f) < 1e-6f);
  CHECK(std::abs(c.routing.log_sum[0] - 2.4982923f) < 1e-6f);
  word.kappa = 1;
  const auto first = run_score(word, c, {1, 0}), second = run_score(word, c, {0, 1});
  CHECK(reference::beside(1, {5.0 / 6, 1.0 / 6}, first.z) < 1e-6);
  CHECK(reference::beside(1, {0.0601852, 0.0370370, 0.0138889, -0.0092593, 0.0231481, 0, -0.0231481, -0.0462963},
                          first.dx) < 1e-6);
  CHECK(reference::beside(1,
                          {-0.0046296, -0.0092593, -0.0138889, -0.0185185, 0.0879630, 0.0833333, 0.0787037, 0.0740741},
                          second.dx) < 1e-6);
  word.learn = true;
  c.tensor = {std::vector<float>(8, 0.25f)};
  c.shape = {{1, 8}};
  CHECK(reference::beside(1, {-0.5, -1.0 / 6, 1.0 / 6, 0.5, 0, 0, 0, 0}, run_score(word, c, {1, 0}).dtensor[0]) < 1e-6);
}

TEST_CASE("grap_cosine: is the dense cosine of the blocks' indicators; learning begins there") {
  for (const int experts : {2, 11, 5}) {
    GrapCosineScore fixed, learnt;
    learnt.learn = true;
    const auto asked = learnt.tensors(experts, kWidth);
    REQUIRE(asked.size() == 1);
    CHECK(asked[0].initial == doctest::Approx(double(experts) / kWidth));
    CHECK(asked[0].deviation == 0);
    CHECK(asked[0].vector);
    Case a(kTokens, kWidth, experts), b(kTokens, kWidth, experts), d(kTokens, kWidth, experts);
    b.tensor = {std::vector<float>(kWidth, asked[0].initial)};
    b.shape = {{1, kWidth}};
    d.tensor = {reference::narrow(reference::spread(Reals(kWidth, double(asked[0].initial)), size_t(experts)))};
    d.shape = {{experts, kWidth}};
    const Reals dz = gradient_in(experts);
    const auto want = run_score(fixed, a, dz), start = run_score(learnt, b, dz),
               dense = run_score(DenseCosineScore{}, d, dz);
    CHECK(reference::error(widen(want.z), start.z) < 1e-6);
    CHECK(reference::error(widen(want.z), dense.z) < 1e-6);
    CHECK(reference::error(widen(want.dx), start.dx) < 1e-5);
    CHECK(reference::error(widen(want.dx), dense.dx) < 1e-5);
  }
}

TEST_CASE("grap: the cosine that experts compare is that of the token and its block") {
  Case c(kTokens, kWidth, 5);
  const auto got = run_score(GrapScore{}, c, gradient_in(5));
  const Reals x = widen(c.x), cosine = reference::grap_cosine(x, kWidth, 5, 1.0);
  base::Frame frame(c.threads);
  const auto inverse = GrapScore{}.inverse_lengths(c.context(), frame);
  for (int t = 0; t < kTokens; ++t) {
    const Reals row = reference::row_of(x, size_t(t), kWidth);
    for (int e = 0; e < 5; ++e) {
      const double mean =
          double(got.z[size_t(t * 5 + e)]) * double(inverse[size_t(e)]) / std::sqrt(reference::dot(row, row));
      CHECK(mean == doctest::Approx(std::max(0.0, cosine[size_t(t * 5 + e)])).epsilon(1e-5));
    }
  }
}

// Proposals see z minus the mean; scores do not.
TEST_CASE("grap_cosine: centring takes the first mean whole, later ones by their share, and moves proposals alone") {
  GrapCosineScore word;
  word.center = 0.75f;
  CHECK(word.state_size(5) == 6);
  CHECK(GrapCosineScore{}.state_size(5) == 0);
  std::vector<float> state(6);
  Reals mean(5);
  for (int step = 0; step < 3; ++step) {
    Case c(kTokens, kWidth, 5, uint64_t(step + 1));
    c.padding.assign(kTokens, 0);
    c.padding[2] = 1;
    c.state = state;
    const auto got = run_score(word, c, gradient_in(5));
    std::vector<float> sums(6), key = got.z;
    word.observe(c.context(), c.routing, sums);
    CHECK(sums[0] == kTokens - 1);
    word.shift(c.context(), reference::matrix(key, 5));
    for (size_t i = 0; i < key.size(); ++i)
      CHECK(key[i] == doctest::Approx(double(got.z[i]) - mean[i % 5]).epsilon(1e-5));
    CHECK(run_score(GrapCosineScore{}, c, gradient_in(5)).z == got.z);
    for (size_t e = 0; e < 5; ++e) {
      double now = 0;
      for (size_t t = 0; t < kTokens; ++t) now += t == 2 ? 0 : double(got.z[t * 5 + e]) / (kTokens - 1);
      mean[e] = step == 0 ? now : 0.75 * mean[e] + 0.25 * now;
    }
    word.update(sums, state);
    CHECK(state[0] == 1);
    for (size_t e = 0; e < 5; ++e) CHECK(state[e + 1] == doctest::Approx(mean[e]).epsilon(1e-5));
  }
  const std::vector<float> before = state;
  word.update(std::vector<float>(6), state);  // a step without tokens
  CHECK(state == before);
}

TEST_CASE("grap_cosine: a row with a NaN does not move the mean") {
  GrapCosineScore word;
  word.center = 0.75f;
  Case c(3, kWidth, 5);
  c.state.assign(6, 0);
  run_score(word, c, reference::random(15, 1, 3));
  c.routing.score[7] = NAN;
  c.routing.plan.tokens = 3;
  std::vector<float> sums(6);
  word.observe(c.context(), c.routing, sums);
  CHECK(sums[0] == 2);
  for (size_t e = 0; e < 5; ++e) CHECK(sums[e + 1] == c.routing.score[e] + c.routing.score[10 + e]);
}

}  // namespace
}  // namespace choir::moe
