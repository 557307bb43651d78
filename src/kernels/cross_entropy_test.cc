#include "kernels/cross_entropy.h"

#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/cross_entropy.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

struct Problem {
  int rows, cols;
  std::vector<double> logits;
  std::vector<int32_t> target;

  Problem(int r, int c, double size)
      : rows(r), cols(c), logits(reference::random(static_cast<size_t>(r * c), size, 1)) {
    for (int t = 0; t < r; ++t) target.push_back(t % 5 == 3 ? -1 : t * 7 % c);
  }
  std::vector<double> row(int t) const { return {logits.begin() + t * cols, logits.begin() + (t + 1) * cols}; }
};

struct Result {
  std::vector<float> loss, log_sum, gradient;
  bool operator==(const Result&) const = default;
};

constexpr float kScale = 0.25f;

Result run(const Problem& p, int threads) {
  Threads pool(threads);
  const auto rows = static_cast<size_t>(p.rows);
  Result r{std::vector<float>(rows), std::vector<float>(rows), reference::narrow(p.logits)};
  const Matrix<float> logits(r.gradient.data(), p.rows, p.cols);
  cross_entropy_forward(logits, p.target, r.loss, r.log_sum, pool);
  cross_entropy_backward(logits, p.target, r.log_sum, kScale, pool);
  return r;
}

TEST_CASE("cross_entropy: the double backward agrees with the complex step") {
  for (const double size : reference::scales(1e-3, 30)) {
    const std::vector<double> logits = reference::random(9, size, 5);
    const auto numeric =
        complex_step(logits, [](const std::vector<std::complex<double>>& z) { return reference::cross_entropy(z, 4); });
    CHECK(reference::error(numeric, reference::cross_entropy_backward(logits, 4)) < 1e-12);
  }
}

// Logits of thousands have float steps that a softmax turns into errors of percents: the scales end at 30.
TEST_CASE("cross_entropy: every version agrees with the reference at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int cols : {1, 5, 32, 203})
      for (const double size : reference::scales(1e-3, 30)) {
        CAPTURE(cols);
        CAPTURE(size);
        const Problem p(9, cols, size);
        const Result r = run(p, 2);
        std::vector<double> loss, log_sum, gradient;
        for (int t = 0; t < p.rows; ++t) {
          const int32_t target = p.target[static_cast<size_t>(t)];
          log_sum.push_back(reference::log_sum_exp(p.row(t)));
          loss.push_back(target < 0 ? 0 : reference::cross_entropy(p.row(t), static_cast<size_t>(target)));
          auto row = reference::cross_entropy_backward(p.row(t), static_cast<size_t>(std::max(target, 0)));
          for (const double v : row) gradient.push_back(target < 0 ? 0 : v * static_cast<double>(kScale));
        }
        CHECK(reference::error(log_sum, r.log_sum) < 1e-5);
        CHECK(reference::error(loss, r.loss) < 1e-5);
        CHECK(reference::error(gradient, r.gradient) < 1e-5);
      }
  });
}

TEST_CASE("cross_entropy: large and forbidden logits do not overflow") {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{3e38f, -3e38f, -infinity, 1e4f, 1e4f, -infinity};
  const std::vector<int32_t> target{0, 0};
  std::vector<float> loss(2), log_sum(2);
  Threads pool(1);
  cross_entropy_forward({logits.data(), 2, 3}, target, loss, log_sum, pool);
  CHECK(loss[0] == 0.0f);
  CHECK(loss[1] == doctest::Approx(0.6931472).epsilon(2e-3));
}

TEST_CASE("cross_entropy: the same bits for any number of threads, and for a row alone") {
  const Problem p(21, 77, 3);
  const Result one = run(p, 1);
  CHECK(run(p, 2) == one);
  CHECK(run(p, 3) == one);
  for (int t = 0; t < p.rows; ++t) {
    Problem alone = p;
    alone.rows = 1;
    alone.logits = p.row(t);
    alone.target = {p.target[static_cast<size_t>(t)]};
    const Result r = run(alone, 1);
    CHECK(r.loss[0] == one.loss[static_cast<size_t>(t)]);
    CHECK(std::equal(r.gradient.begin(), r.gradient.end(), one.gradient.begin() + t * p.cols));
  }
}

}  // namespace
}  // namespace choir::kernels
