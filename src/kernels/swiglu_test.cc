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

Result run(const Problem& p, int threads) {
  Threads pool(threads);
  Result r{std::vector<float>(p.gate.size()), reference::narrow(p.gate), reference::narrow(p.up)};
  const std::vector<float> dh = reference::narrow(p.dh);
  const Matrix<float> gate(r.dgate.data(), p.rows, p.cols), up(r.dup.data(), p.rows, p.cols);
  swiglu_forward(gate, up, {r.h.data(), p.rows, p.cols}, pool);
  swiglu_backward({dh.data(), p.rows, p.cols}, gate, up, pool);
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
  const Problem p(37, 50, 1);
  const Result one = run(p, 1);
  CHECK(run(p, 2) == one);
  CHECK(run(p, 3) == one);
  Threads pool(1);
  std::vector<float> gate = reference::narrow(p.gate), up = reference::narrow(p.up);
  for (int t = 0; t < p.rows; ++t) {
    const Matrix<float> row(gate.data() + t * p.cols, 1, p.cols);
    swiglu_forward(row, {up.data() + t * p.cols, 1, p.cols}, row, pool);
  }
  CHECK(gate == one.h);
}

}  // namespace
}  // namespace choir::kernels
