#include "moe/score/dense_cosine.h"

#include "moe/reference/score_case.h"

namespace choir::moe {
namespace {

using reference::Case;
using reference::run_score;
using reference::widen;
using Reals = std::vector<double>;

constexpr int kTokens = 11, kWidth = 19;

TEST_CASE("dense_cosine: forward and backward agree with the reference") {
  for (const int experts : {1, 4, 19, 30})
    for (const double scale : {1e-2, 1.0, 100.0}) {
      CAPTURE(experts);
      DenseCosineScore word;
      if (experts == 4) word.kappa = 3.0f;
      const double kappa = experts == 4 ? 3 : std::sqrt(double(kWidth));
      Case c(kTokens, kWidth, experts, 1, scale);
      c.fill_tensors(word);
      const Reals dz = reference::random(size_t(kTokens * experts), 1, 9), x = widen(c.x), w = widen(c.tensor[0]);
      const auto got = run_score(word, c, dz);
      const auto want = reference::dense_cosine_backward(dz, x, w, kWidth, kappa);
      CHECK(reference::error(reference::dense_cosine(x, w, kWidth, kappa), got.z) < 1e-5);
      CHECK(reference::error(want.x, got.dx) < 2e-5);
      CHECK(reference::error(want.w, got.dtensor[0]) < 2e-5);
    }
}

TEST_CASE("dense_cosine: lengths change nothing, and no gradient points along token or gate") {
  const DenseCosineScore word;
  Case c(kTokens, kWidth, 5), longer(kTokens, kWidth, 5);
  c.fill_tensors(word);
  longer.fill_tensors(word);
  for (float& v : longer.x) v *= 64;
  for (float& v : longer.tensor[0]) v *= 0.5f;
  const Reals dz = reference::random(kTokens * 5, 1, 9);
  const auto got = run_score(word, c, dz);
  CHECK(got.z == run_score(word, longer, dz).z);
  const auto along = [](const std::vector<float>& v, const std::vector<float>& dv, int row) {
    double sum = 0;
    for (int j = 0; j < kWidth; ++j) sum += double(v[size_t(row * kWidth + j)]) * double(dv[size_t(row * kWidth + j)]);
    return std::abs(sum);
  };
  for (int t = 0; t < kTokens; ++t) CHECK(along(c.x, got.dx, t) < 2e-5);
  for (int e = 0; e < 5; ++e) CHECK(along(c.tensor[0], got.dtensor[0], e) < 2e-5);
}

TEST_CASE("dense_cosine: a zero vector and a zero gate have cosine 0 and no gradient") {
  const DenseCosineScore word;
  Case c(3, kWidth, 4);
  c.fill_tensors(word);
  std::fill_n(c.x.begin(), kWidth, 0.0f);
  std::fill_n(c.tensor[0].begin(), kWidth, 0.0f);
  const auto got = run_score(word, c, reference::random(12, 1, 3));
  for (int e = 0; e < 4; ++e) CHECK(got.z[size_t(e)] == 0);
  for (int t = 0; t < 3; ++t) CHECK(got.z[size_t(t * 4)] == 0);
  for (int j = 0; j < kWidth; ++j) {
    CHECK(got.dx[size_t(j)] == 0);
    CHECK(got.dtensor[0][size_t(j)] == 0);
  }
  for (const float v : got.dtensor[0]) CHECK(std::isfinite(v));
}

}  // namespace
}  // namespace choir::moe
