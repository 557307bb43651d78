#include "kernels/softmax.h"

#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/softmax.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

struct Problem {
  int rows, cols;
  std::vector<double> z, dp;

  Problem(int r, int c, double size)
      : rows(r),
        cols(c),
        z(reference::random(static_cast<size_t>(r * c), size, 1)),
        dp(reference::random(static_cast<size_t>(r * c), 1, 2)) {}

  std::vector<double> row(const std::vector<double>& m, int t) const {
    return {m.begin() + t * cols, m.begin() + (t + 1) * cols};
  }
};

struct Result {
  std::vector<float> p, log_sum, dz;
  bool operator==(const Result&) const = default;
};

Result run(const Problem& p, int threads) {
  Threads pool(threads);
  const std::vector<float> z = reference::narrow(p.z), dp = reference::narrow(p.dp);
  Result r{std::vector<float>(z.size()), std::vector<float>(static_cast<size_t>(p.rows)), std::vector<float>(z.size())};
  const Matrix<float> out(r.p.data(), p.rows, p.cols);
  softmax_forward({z.data(), p.rows, p.cols}, out, r.log_sum, pool);
  softmax_backward(out, {dp.data(), p.rows, p.cols}, {r.dz.data(), p.rows, p.cols}, pool);
  return r;
}

// p, log_sum and dz in that order.
std::vector<std::vector<double>> expected(const Problem& p) {
  std::vector<std::vector<double>> all(3);
  for (int t = 0; t < p.rows; ++t) {
    const auto row = reference::softmax(p.row(p.z, t));
    const auto dz = reference::softmax_backward(p.row(p.dp, t), p.row(p.z, t));
    all[0].insert(all[0].end(), row.p.begin(), row.p.end());
    all[1].push_back(row.log_sum);
    all[2].insert(all[2].end(), dz.begin(), dz.end());
  }
  return all;
}

TEST_CASE("softmax: the double backward agrees with the complex step") {
  for (const double size : reference::scales(1e-3, 30)) {
    const Problem p(1, 7, size);
    const auto numeric = complex_step(p.z, [&](const std::vector<std::complex<double>>& z) {
      const auto row = reference::softmax(z).p;
      std::complex<double> loss = 0;
      for (size_t e = 0; e < row.size(); ++e) loss += p.dp[e] * row[e];
      return loss;
    });
    const auto dz = reference::softmax_backward(p.dp, p.z);
    for (size_t e = 0; e < dz.size(); ++e) CHECK(std::abs(numeric[e] - dz[e]) < 1e-14);  // of numbers near dp
  }
}

TEST_CASE("softmax: every version agrees with the reference at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int cols : {1, 2, 8, 16, 17, 64, 75})
      for (const double size : reference::scales(1e-3, 1e3)) {
        CAPTURE(cols);
        CAPTURE(size);
        const Problem p(19, cols, size);
        const Result r = run(p, 2);
        const auto want = expected(p);
        CHECK(reference::error(want[0], r.p) < 1e-5);
        CHECK(reference::error(want[1], r.log_sum) < 1e-5);
        // A difference of numbers of the order of dp, which is 1: its error is measured against those.
        for (size_t i = 0; i < r.dz.size(); ++i) CHECK(std::abs(want[2][i] - static_cast<double>(r.dz[i])) < 3e-6);
      }
  });
}

TEST_CASE("softmax: the same bits for any number of threads, and for a row alone") {
  const Problem p(137, 50, 1);
  const Result one = run(p, 1);
  CHECK(run(p, 2) == one);
  CHECK(run(p, 3) == one);
  for (int t = 0; t < p.rows; ++t) {
    Problem alone(1, p.cols, 1);
    alone.z = p.row(p.z, t);
    alone.dp = p.row(p.dp, t);
    const Result r = run(alone, 1);
    CHECK(std::equal(r.p.begin(), r.p.end(), one.p.begin() + t * p.cols));
    CHECK(std::equal(r.dz.begin(), r.dz.end(), one.dz.begin() + t * p.cols));
    CHECK(r.log_sum[0] == one.log_sum[static_cast<size_t>(t)]);
  }
}

TEST_CASE("softmax: rows sum to 1, large and equal scores do not overflow, a NaN spoils its own row alone") {
  Threads pool(1);
  const std::vector<float> z{1e30f, 1e30f, -1e30f, -3e38f, 3e38f, 0, 1, NAN, 2, -HUGE_VALF, 0, 0};
  std::vector<float> p(12), log_sum(4);
  softmax_forward({z.data(), 4, 3}, {p.data(), 4, 3}, log_sum, pool);
  CHECK(std::vector<float>(p.begin(), p.begin() + 6) == std::vector<float>{0.5f, 0.5f, 0, 0, 1, 0});
  for (int e = 6; e < 9; ++e) CHECK(std::isnan(p[static_cast<size_t>(e)]));
  CHECK(std::vector<float>(p.begin() + 9, p.end()) == std::vector<float>{0, 0.5f, 0.5f});
  CHECK(log_sum[1] == 3e38f);
  CHECK(log_sum[3] == doctest::Approx(std::log(2)).epsilon(1e-6));
}

TEST_CASE("softmax: the backward adds to what is there") {
  const Problem p(3, 20, 1);
  Threads pool(1);
  const Result r = run(p, 1);
  const std::vector<float> dp = reference::narrow(p.dp);
  std::vector<float> dz(p.z.size(), 100.0f);
  softmax_backward({r.p.data(), 3, 20}, {dp.data(), 3, 20}, {dz.data(), 3, 20}, pool);
  for (size_t i = 0; i < dz.size(); ++i) CHECK(dz[i] == doctest::Approx(100.0f + r.dz[i]).epsilon(1e-6));
}

}  // namespace
}  // namespace choir::kernels
