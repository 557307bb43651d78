#include "kernels/layer_norm.h"

#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/layer_norm.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

constexpr double kEpsilon = 1e-5;

struct Problem {
  int rows, cols;
  std::vector<double> x, scale, bias, dy;

  Problem(int r, int c, double size)
      : rows(r),
        cols(c),
        x(reference::random(static_cast<size_t>(r * c), size, 1)),
        scale(reference::random(static_cast<size_t>(c), 1, 2)),
        bias(reference::random(static_cast<size_t>(c), 1, 4)),
        dy(reference::random(static_cast<size_t>(r * c), 1, 3)) {}

  std::vector<double> row(const std::vector<double>& m, int t) const {
    return {m.begin() + t * cols, m.begin() + (t + 1) * cols};
  }
};

struct Result {
  std::vector<float> y, mean, inverse, dx, dscale, dbias;
  bool operator==(const Result&) const = default;
};

Result run(const Problem& p, int threads) {
  Threads pool(threads);
  const auto x = reference::narrow(p.x), scale = reference::narrow(p.scale), bias = reference::narrow(p.bias),
             dy = reference::narrow(p.dy);
  const auto rows = static_cast<size_t>(p.rows), cols = static_cast<size_t>(p.cols);
  Result r{std::vector<float>(x.size()), std::vector<float>(rows), std::vector<float>(rows),
           std::vector<float>(x.size()), std::vector<float>(cols), std::vector<float>(cols)};
  const Matrix<const float> input(x.data(), p.rows, p.cols);
  layer_norm_forward(input, {scale, bias, static_cast<float>(kEpsilon)}, {r.y.data(), p.rows, p.cols},
                     {r.mean, r.inverse}, pool);
  layer_norm_backward({dy.data(), p.rows, p.cols}, {input, scale, r.mean, r.inverse},
                      {{r.dx.data(), p.rows, p.cols}, r.dscale, r.dbias}, pool);
  return r;
}

// y, dx, dscale and dbias in that order.
std::vector<std::vector<double>> expected(const Problem& p) {
  std::vector<std::vector<double>> all(4);
  all[2].resize(static_cast<size_t>(p.cols));
  all[3].resize(static_cast<size_t>(p.cols));
  for (int t = 0; t < p.rows; ++t) {
    const auto y = reference::layer_norm(p.row(p.x, t), p.scale, p.bias, kEpsilon);
    const auto g = reference::layer_norm_backward(p.row(p.dy, t), p.row(p.x, t), p.scale, kEpsilon);
    all[0].insert(all[0].end(), y.begin(), y.end());
    all[1].insert(all[1].end(), g.dx.begin(), g.dx.end());
    for (size_t d = 0; d < g.dscale.size(); ++d) all[2][d] += g.dscale[d];
    for (size_t d = 0; d < g.dbias.size(); ++d) all[3][d] += g.dbias[d];
  }
  return all;
}

TEST_CASE("layer_norm: the double backward agrees with the complex step") {
  using Complexes = std::vector<std::complex<double>>;
  for (const double size : reference::scales(1e-3, 1e3)) {
    const Problem p(1, 7, size);
    std::vector<double> variables = p.x;
    for (const auto* part : {&p.scale, &p.bias}) variables.insert(variables.end(), part->begin(), part->end());
    const auto numeric = complex_step(variables, [&](const Complexes& z) {
      const auto y = reference::layer_norm<std::complex<double>>(
          {z.begin(), z.begin() + 7}, {z.begin() + 7, z.begin() + 14}, {z.begin() + 14, z.end()}, kEpsilon);
      std::complex<double> loss = 0;
      for (size_t d = 0; d < y.size(); ++d) loss += p.dy[d] * y[d];
      return loss;
    });
    const auto g = reference::layer_norm_backward(p.dy, p.x, p.scale, kEpsilon);
    CHECK(reference::error({numeric.begin(), numeric.begin() + 7}, g.dx) < 1e-12);
    CHECK(reference::error({numeric.begin() + 7, numeric.begin() + 14}, g.dscale) < 1e-12);
    CHECK(reference::error({numeric.begin() + 14, numeric.end()}, g.dbias) < 1e-12);
  }
}

TEST_CASE("layer_norm: every version agrees with the reference at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int cols : {2, 5, 16, 50, 256})
      for (const double size : reference::scales(1e-3, 1e3)) {
        CAPTURE(cols);
        CAPTURE(size);
        const Problem p(19, cols, size);
        const Result r = run(p, 2);
        const auto want = expected(p);
        CHECK(reference::error(want[0], r.y) < 1e-5);
        // Two columns are almost their own norm: dx is what is left of equal terms.
        if (cols > 2) CHECK(reference::error(want[1], r.dx) < 1e-5);
        CHECK(reference::error(want[2], r.dscale) < 1e-5);
        CHECK(reference::error(want[3], r.dbias) < 1e-5);
      }
  });
}

TEST_CASE("layer_norm: the same bits for any number of threads, and for a row alone") {
  const Problem p(37, 50, 1);
  const Result one = run(p, 1);
  CHECK(run(p, 2) == one);
  CHECK(run(p, 3) == one);
  for (int t = 0; t < p.rows; ++t) {
    Problem alone(1, p.cols, 1);
    alone.x = p.row(p.x, t);
    alone.dy = p.row(p.dy, t);
    const Result r = run(alone, 1);
    CHECK(std::equal(r.y.begin(), r.y.end(), one.y.begin() + t * p.cols));
    CHECK(std::equal(r.dx.begin(), r.dx.end(), one.dx.begin() + t * p.cols));
  }
}

TEST_CASE("layer_norm: a row far from zero loses its mean, not its digits") {
  Problem p(2, 50, 1), far = p;
  for (double& v : far.x) v += 1024;
  for (size_t i = 0; i < p.x.size(); ++i) p.x[i] = static_cast<double>(static_cast<float>(far.x[i])) - 1024;
  CHECK(reference::error(expected(p)[0], run(far, 1).y) < 2e-4);
}

TEST_CASE("layer_norm: the backward adds to what is there, and the output may be the input") {
  const Problem p(3, 20, 1);
  Threads pool(1);
  auto x = reference::narrow(p.x);
  const auto scale = reference::narrow(p.scale), bias = reference::narrow(p.bias), dy = reference::narrow(p.dy);
  Result r = run(p, 1);
  std::vector<float> dx(x.size(), 100.0f), dscale(scale.size(), -100.0f), dbias(scale.size(), 50.0f);
  layer_norm_backward({dy.data(), 3, 20}, {{x.data(), 3, 20}, scale, r.mean, r.inverse},
                      {{dx.data(), 3, 20}, dscale, dbias}, pool);
  for (size_t i = 0; i < dx.size(); ++i) CHECK(dx[i] == doctest::Approx(100.0f + r.dx[i]).epsilon(1e-6));
  for (size_t i = 0; i < dscale.size(); ++i) CHECK(dscale[i] == doctest::Approx(r.dscale[i] - 100.0f).epsilon(1e-6));
  for (size_t i = 0; i < dbias.size(); ++i) CHECK(dbias[i] == doctest::Approx(r.dbias[i] + 50.0f).epsilon(1e-6));
  const Matrix<float> in_place(x.data(), 3, 20);
  layer_norm_forward(in_place, {scale, bias, static_cast<float>(kEpsilon)}, in_place, {r.mean, r.inverse}, pool);
  CHECK(x == r.y);
}

}  // namespace
}  // namespace choir::kernels
