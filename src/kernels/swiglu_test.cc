#include "kernels/swiglu.h"

#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/swiglu.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

struct Problem {
  int rows, cols;
  std::vector<double> gate, up, dh;

  Problem(int r, int c, double size)
      : rows(r),
        cols(c),
        gate(reference::random(static_cast<size_t>(r * c), size, 1)),
        up(reference::random(static_cast<size_t>(r * c), size, 2)),
        dh(reference::random(static_cast<size_t>(r * c), 1, 3)) {}
};

struct Result {
  std::vector<float> h, dgate, dup;
  bool operator==(const Result&) const = default;
};

Result run(const Problem& p, int threads, Activation activation = {}) {
  Threads pool(threads);
  Result r{std::vector<float>(p.gate.size()), reference::narrow(p.gate), reference::narrow(p.up)};
  const std::vector<float> dh = reference::narrow(p.dh);
  const Matrix<float> gate(r.dgate.data(), p.rows, p.cols), up(r.dup.data(), p.rows, p.cols);
  swiglu_forward(gate, up, {r.h.data(), p.rows, p.cols}, pool, activation);
  swiglu_backward({dh.data(), p.rows, p.cols}, gate, up, pool, activation);
  return r;
}

TEST_CASE("swiglu: the double backward agrees with the complex step") {
  for (const double size : reference::scales(1e-3, 30)) {
    const Problem p(1, 6, size);
    std::vector<double> variables = p.gate;
    variables.insert(variables.end(), p.up.begin(), p.up.end());
    const auto numeric = complex_step(variables, [&](const std::vector<std::complex<double>>& z) {
      const auto h = reference::swiglu<std::complex<double>>({z.begin(), z.begin() + 6}, {z.begin() + 6, z.end()});
      std::complex<double> loss = 0;
      for (size_t d = 0; d < h.size(); ++d) loss += p.dh[d] * h[d];
      return loss;
    });
    const auto g = reference::swiglu_backward(p.dh, p.gate, p.up);
    CHECK(reference::error({numeric.begin(), numeric.begin() + 6}, g.dgate) < 1e-12);
    CHECK(reference::error({numeric.begin() + 6, numeric.end()}, g.dup) < 1e-12);
  }
}

TEST_CASE("swiglu: every version agrees with the reference at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int cols : {1, 7, 32, 75})
      for (const double size : reference::scales(1e-3, 1e3)) {
        CAPTURE(size);
        const Problem p(18, cols, size);
        const Result r = run(p, 2);
        const auto g = reference::swiglu_backward(p.dh, p.gate, p.up);
        CHECK(reference::error(reference::swiglu(p.gate, p.up), r.h) < 1e-5);
        CHECK(reference::error(g.dgate, r.dgate) < 1e-5);
        CHECK(reference::error(g.dup, r.dup) < 1e-5);
      }
  });
}

TEST_CASE("swiglu: the same bits for any number of threads, for a row alone, and in place") {
  for (const float limit : {0.0f, 0.5f}) {
    const Problem p(37, 50, 1);
    const Activation activation{limit};
    const Result one = run(p, 1, activation);
    CHECK(run(p, 2, activation) == one);
    CHECK(run(p, 3, activation) == one);
    Threads pool(1);
    std::vector<float> gate = reference::narrow(p.gate), up = reference::narrow(p.up);
    for (int t = 0; t < p.rows; ++t) {
      const Matrix<float> row(gate.data() + t * p.cols, 1, p.cols);
      swiglu_forward(row, {up.data() + t * p.cols, 1, p.cols}, row, pool, activation);
    }
    CHECK(gate == one.h);
  }
}

TEST_CASE("clamped swiglu: every version agrees with the reference and its complex step, on both sides of the limits") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int cols : {1, 7, 32, 75})
      for (const double size : reference::scales(1e-3, 30)) {
        CAPTURE(size);
        const double limit = 7, alpha = double(1.702f);
        const Problem p(18, cols, size);
        const Result r = run(p, 2, {7, 1.702f});
        CHECK(reference::error(reference::clamped_swiglu(p.gate, p.up, limit, alpha), r.h) < 1e-5);
        std::vector<double> dgate, dup;  // an element depends on its own two numbers alone
        for (size_t i = 0; i < p.gate.size(); ++i) {
          const auto numeric = complex_step({p.gate[i], p.up[i]}, [&](const std::vector<std::complex<double>>& z) {
            return p.dh[i] * reference::clamped_swiglu<std::complex<double>>({z[0]}, {z[1]}, limit, alpha)[0];
          });
          dgate.push_back(numeric[0]);
          dup.push_back(numeric[1]);
        }
        CHECK(reference::error(dgate, r.dgate) < 1e-5);
        CHECK(reference::error(dup, r.dup) < 1e-5);
      }
  });
}

TEST_CASE("clamped swiglu: worked values; a gradient on a limit, none beyond; NaN stays") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    Problem p(1, 8, 1);
    p.gate = {2, 2, 3, -9, 1, 1, NAN, 1};
    p.up = {1, 5, 1, 1, -2, -3, 1, NAN};
    p.dh.assign(8, 1);
    const Result r = run(p, 1, {2, 1});
    const double s2 = 1 / (1 + std::exp(-2.0)), s1 = 1 / (1 + std::exp(-1.0));
    CHECK(double(r.h[0]) == doctest::Approx(2 * 2 * s2));
    CHECK(double(r.h[1]) == doctest::Approx(3 * 2 * s2));                    // up from above
    CHECK(r.h[2] == r.h[0]);                                                 // gate from above
    CHECK(double(r.h[3]) == doctest::Approx(2 * -9 / (1 + std::exp(9.0))));  // gate has no lower limit
    CHECK(double(r.h[4]) == doctest::Approx(-s1));
    CHECK(r.h[5] == r.h[4]);  // up from below
    CHECK((std::isnan(r.h[6]) && std::isnan(r.h[7])));
    CHECK((r.dgate[0] != 0 && r.dup[4] != 0));  // on the limits
    CHECK((r.dgate[2] == 0 && r.dup[1] == 0 && r.dup[5] == 0));
    CHECK((r.dgate[1] != 0 && r.dup[2] != 0 && r.dgate[5] != 0));
    CHECK((std::isnan(r.dgate[6]) && std::isnan(r.dup[6]) && std::isnan(r.dgate[7])));
  });
}

}  // namespace
}  // namespace choir::kernels
