#include "kernels/softmax.h"

#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/softmax.h"

namespace choir::kernels {
namespace {

struct Problem {
  int rows, cols;
  std::vector<double> z;

  Problem(int r, int c, double size) : rows(r), cols(c), z(reference::random(static_cast<size_t>(r * c), size, 1)) {}

  std::vector<double> row(const std::vector<double>& m, int t) const {
    return {m.begin() + t * cols, m.begin() + (t + 1) * cols};
  }
};

struct Result {
  std::vector<float> p, log_sum;
  bool operator==(const Result&) const = default;
};

Result run(const Problem& p, int threads) {
  Threads pool(threads);
  const std::vector<float> z = reference::narrow(p.z);
  Result r{std::vector<float>(z.size()), std::vector<float>(static_cast<size_t>(p.rows))};
  const Matrix<float> out(r.p.data(), p.rows, p.cols);
  softmax_forward({z.data(), p.rows, p.cols}, out, r.log_sum, pool);
  return r;
}

// p and log_sum in that order.
std::vector<std::vector<double>> expected(const Problem& p) {
  std::vector<std::vector<double>> all(2);
  for (int t = 0; t < p.rows; ++t) {
    const auto row = reference::softmax(p.row(p.z, t));
    all[0].insert(all[0].end(), row.p.begin(), row.p.end());
    all[1].push_back(row.log_sum);
  }
  return all;
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
    const Result r = run(alone, 1);
    CHECK(std::equal(r.p.begin(), r.p.end(), one.p.begin() + t * p.cols));
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

}  // namespace
}  // namespace choir::kernels
