#include "kernels/block_sums.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "kernels/reference/block_sums.h"
#include "kernels/reference/compare.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

using Bounds = std::vector<int32_t>;

struct Problem {
  int rows;
  Bounds bound;
  std::vector<double> x, dsums, dsquares;

  Problem(int r, Bounds b, double size)
      : rows(r),
        bound(std::move(b)),
        x(reference::random(static_cast<size_t>(r * cols()), size, 1)),
        dsums(reference::random(static_cast<size_t>(r * blocks()), 1, 2)),
        dsquares(reference::random(static_cast<size_t>(r), 1 / size, 3)) {}

  int cols() const { return bound.back(); }
  int blocks() const { return static_cast<int>(bound.size()) - 1; }
  std::vector<double> row(const std::vector<double>& m, int t, int width) const {
    return {m.begin() + t * width, m.begin() + (t + 1) * width};
  }
  reference::BlockSums<double> gradient(int t) const {
    return {row(dsums, t, blocks()), dsquares[static_cast<size_t>(t)]};
  }
};

struct Result {
  std::vector<float> sums, squares, dx;
  bool operator==(const Result&) const = default;
};

Result run(const Problem& p, int threads) {
  Threads pool(threads);
  const std::vector<float> x = reference::narrow(p.x), dsums = reference::narrow(p.dsums),
                           dsquares = reference::narrow(p.dsquares);
  Result r{std::vector<float>(dsums.size()), std::vector<float>(dsquares.size()), std::vector<float>(x.size())};
  const Matrix<const float> input(x.data(), p.rows, p.cols());
  block_sums_forward(input, p.bound, {r.sums.data(), p.rows, p.blocks()}, r.squares, pool);
  block_sums_backward({{dsums.data(), p.rows, p.blocks()}, dsquares}, input, p.bound, {r.dx.data(), p.rows, p.cols()},
                      pool);
  return r;
}

TEST_CASE("block_sums: the double backward agrees with the complex step") {
  for (const double size : reference::scales(1e-3, 1e3)) {
    const Problem p(1, {0, 2, 5, 5, 9}, size);
    const auto numeric = complex_step(p.x, [&](const std::vector<std::complex<double>>& x) {
      const auto out = reference::block_sums(x, p.bound);
      std::complex<double> loss = p.dsquares[0] * out.square;
      for (size_t e = 0; e < out.sums.size(); ++e) loss += p.dsums[e] * out.sums[e];
      return loss;
    });
    CHECK(reference::error(numeric, reference::block_sums_backward(p.gradient(0), p.x, p.bound)) < 1e-12);
  }
}

TEST_CASE("block_sums: every version agrees with the reference at ten scales, blocks of any size") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const Bounds& bound : {Bounds{0, 1}, {0, 7}, {0, 16, 32, 48}, {0, 2, 5, 7, 10}, {0, 17, 17, 50, 101}})
      for (const double size : reference::scales(1e-3, 1e3)) {
        CAPTURE(size);
        const Problem p(19, bound, size);
        const Result r = run(p, 2);
        for (int t = 0; t < p.rows; ++t) {
          const auto x = p.row(p.x, t, p.cols());
          const auto want = reference::block_sums(x, bound);
          // Terms of both signs: the error is measured against sums without signs.
          const double length = std::sqrt(want.square * p.cols());
          for (int e = 0; e < p.blocks(); ++e)
            CHECK(std::abs(want.sums[e] - static_cast<double>(r.sums[t * p.blocks() + e])) < 1e-6 * length);
          CHECK(r.squares[t] == doctest::Approx(want.square).epsilon(1e-5));
          const std::vector<float> dx(r.dx.begin() + t * p.cols(), r.dx.begin() + (t + 1) * p.cols());
          CHECK(reference::error(reference::block_sums_backward(p.gradient(t), x, bound), dx) < 1e-5);
        }
      }
  });
}

TEST_CASE("block_sums: the same bits for any number of threads, and for a row alone") {
  const Problem p(137, {0, 20, 41, 50}, 1);
  const Result one = run(p, 1);
  CHECK(run(p, 2) == one);
  CHECK(run(p, 3) == one);
  for (int t = 0; t < p.rows; ++t) {
    Problem alone(1, p.bound, 1);
    alone.x = p.row(p.x, t, 50);
    alone.dsums = p.row(p.dsums, t, 3);
    alone.dsquares = {p.dsquares[static_cast<size_t>(t)]};
    const Result r = run(alone, 1);
    CHECK(std::equal(r.sums.begin(), r.sums.end(), one.sums.begin() + t * 3));
    CHECK(std::equal(r.dx.begin(), r.dx.end(), one.dx.begin() + t * 50));
    CHECK(r.squares[0] == one.squares[static_cast<size_t>(t)]);
  }
}

TEST_CASE("block_sums: the backward adds to what is there") {
  const Problem p(1, {0, 2, 4}, 1);
  Threads pool(1);
  const std::vector<float> x{1, 2, 3, 4}, dsums{10, 20}, dsquares{0.5f};
  std::vector<float> dx{100, 100, 100, 100};
  block_sums_backward({{dsums.data(), 1, 2}, dsquares}, {x.data(), 1, 4}, p.bound, {dx.data(), 1, 4}, pool);
  CHECK(dx == std::vector<float>{111, 112, 123, 124});
}

TEST_CASE("block_sums: bounds that do not span the row are refused") {
  Threads pool(1);
  const std::vector<float> x(4);
  std::vector<float> sums(2), squares(1);
  for (const Bounds& bound : {Bounds{0, 2, 3}, {1, 2, 4}, {0, 3, 2}, {0, 4}})
    CHECK_THROWS_AS(block_sums_forward({x.data(), 1, 4}, bound, {sums.data(), 1, 2}, squares, pool), base::Error);
}

}  // namespace
}  // namespace choir::kernels
