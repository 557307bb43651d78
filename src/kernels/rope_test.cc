#include "kernels/rope.h"

#include <doctest/doctest.h>

#include "kernels/reference/compare.h"
#include "kernels/reference/rope.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

constexpr float kTheta = 10000;
constexpr int kPositions = 600;

std::vector<float> table_of(int width) {
  std::vector<float> table(static_cast<size_t>(kPositions * width));
  rope_table(kTheta, {table.data(), kPositions, width});
  return table;
}

struct Problem {
  int rows, heads, width;
  std::vector<double> x;
  std::vector<int> position;

  Problem(int r, int h, int w, double size)
      : rows(r), heads(h), width(w), x(reference::random(static_cast<size_t>(r * h * w), size, 1)) {
    for (int t = 0; t < r; ++t) position.push_back(t * 31 % kPositions);
  }
};

std::vector<float> run(const Problem& p, std::vector<float> x, Turn turn, int threads) {
  Threads pool(threads);
  const std::vector<float> table = table_of(p.width);
  rope({x.data(), p.rows, p.heads * p.width}, p.position, {table.data(), kPositions, p.width}, turn, pool);
  return x;
}

TEST_CASE("rope: the double backward agrees with the complex step") {
  for (const double size : reference::scales(1e-3, 1e3)) {
    const auto x = reference::random(10, size, 1), dy = reference::random(10, 1, 2);
    const auto numeric = complex_step(x, [&](const std::vector<std::complex<double>>& z) {
      const auto y = reference::rope(z, 123, 10000.0, 1);
      std::complex<double> loss = 0;
      for (size_t d = 0; d < y.size(); ++d) loss += dy[d] * y[d];
      return loss;
    });
    CHECK(reference::error(numeric, reference::rope_backward(dy, 123, 10000.0)) < 1e-12);
  }
}

TEST_CASE("rope: every version agrees with the reference at ten scales, forward and back") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int width : {2, 10, 22, 64})
      for (const double size : reference::scales(1e-3, 1e3)) {
        CAPTURE(width);
        const Problem p(20, 3, width, size);
        std::vector<double> forward, back;
        for (int i = 0; i < p.rows * p.heads; ++i) {
          const std::vector<double> head(p.x.begin() + i * width, p.x.begin() + (i + 1) * width);
          const int position = p.position[static_cast<size_t>(i / p.heads)];
          for (const double v : reference::rope(head, position, 10000.0, 1)) forward.push_back(v);
          for (const double v : reference::rope_backward(head, position, 10000.0)) back.push_back(v);
        }
        const std::vector<float> x = reference::narrow(p.x);
        CHECK(reference::error(forward, run(p, x, Turn::kForward, 2)) < 1e-6);
        CHECK(reference::error(back, run(p, x, Turn::kBack, 2)) < 1e-6);
        CHECK(reference::error(p.x, run(p, run(p, x, Turn::kForward, 1), Turn::kBack, 1)) < 1e-6);
      }
  });
}

TEST_CASE("rope: the angles of the table are computed in double") {
  std::vector<float> table(100001 * 2);
  rope_table(kTheta, {table.data(), 100001, 2});
  CHECK(table[200000] == static_cast<float>(std::cos(100000.0)));
  CHECK(table[200001] == static_cast<float>(std::sin(100000.0)));
}

TEST_CASE("rope: the product of two turned vectors depends on their distance alone") {
  const int width = 22;
  const auto dot_at = [&](int a, int b) {
    Problem p(2, 1, width, 1);
    p.position = {a, b};
    const std::vector<float> y = run(p, reference::narrow(p.x), Turn::kForward, 1);
    double dot = 0;
    for (size_t i = 0; i < static_cast<size_t>(width); ++i)
      dot += static_cast<double>(y[i]) * static_cast<double>(y[i + width]);
    return dot;
  };
  for (const int shift : {1, 50, 500}) CHECK(std::abs(dot_at(7 + shift, 40 + shift) - dot_at(7, 40)) < 1e-5);
  CHECK(std::abs(dot_at(7, 41) - dot_at(7, 40)) > 1e-3);
}

TEST_CASE("rope: the same bits for any number of threads, and for a row alone") {
  const Problem p(37, 3, 22, 1);
  const std::vector<float> x = reference::narrow(p.x), one = run(p, x, Turn::kForward, 1);
  CHECK(run(p, x, Turn::kForward, 2) == one);
  CHECK(run(p, x, Turn::kForward, 3) == one);
  for (int t = 0; t < p.rows; ++t) {
    Problem alone(1, 3, 22, 1);
    alone.position = {p.position[static_cast<size_t>(t)]};
    const std::vector<float> y = run(alone, {x.begin() + t * 66, x.begin() + (t + 1) * 66}, Turn::kForward, 1);
    CHECK(std::equal(y.begin(), y.end(), one.begin() + t * 66));
  }
}

}  // namespace
}  // namespace choir::kernels
