#include "kernels/rope.h"

#include <doctest/doctest.h>

#include <array>

#include "kernels/reference/compare.h"
#include "kernels/reference/rope.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

const RopeSpec kPlain{.theta = 10000};
constexpr int kPositions = 600;

std::vector<float> table_of(const RopeFrequencies& frequencies) {
  const int width = 2 * static_cast<int>(frequencies.inverse.size());
  std::vector<float> table(static_cast<size_t>(kPositions * width));
  rope_table(frequencies, {table.data(), kPositions, width});
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
  const std::vector<float> table = table_of(rope_frequencies(kPlain, p.width, kPositions));
  rope({x.data(), p.rows, p.heads * p.width}, p.position, {{table.data(), kPositions, p.width}}, turn, pool);
  return x;
}

// A part of each head, either kind of pairs and a factor.
std::vector<float> run(const Problem& p, const reference::Turned& as, Turn turn) {
  Threads pool(2);
  const std::vector<float> table = table_of({as.inverse, as.factor});
  std::vector<float> x = reference::narrow(p.x);
  const Matrix<const float> t(table.data(), kPositions, 2 * static_cast<int>(as.inverse.size()));
  rope({x.data(), p.rows, p.heads * p.width}, p.position, {t, as.pairs, p.width, static_cast<int>(as.offset)}, turn,
       pool);
  return x;
}

std::vector<double> expected(const Problem& p, const reference::Turned& as, int direction) {
  std::vector<double> all;
  for (int i = 0; i < p.rows * p.heads; ++i) {
    const std::vector<double> head(p.x.begin() + i * p.width, p.x.begin() + (i + 1) * p.width);
    for (const double v : reference::rope(head, p.position[static_cast<size_t>(i / p.heads)], as, direction))
      all.push_back(v);
  }
  return all;
}

TEST_CASE("rope: the double backward agrees with the complex step") {
  for (const Pairs pairs : {Pairs::kHalves, Pairs::kNeighbours})
    for (const double size : reference::scales(1e-3, 1e3)) {
      const auto x = reference::random(10, size, 1), dy = reference::random(10, 1, 2);
      const reference::Turned as{reference::plain_frequencies(6, 10000), 1.3, pairs, 2};
      const auto numeric = complex_step(x, [&](const std::vector<std::complex<double>>& z) {
        const auto y = reference::rope(z, 123, as, 1);
        std::complex<double> loss = 0;
        for (size_t d = 0; d < y.size(); ++d) loss += dy[d] * y[d];
        return loss;
      });
      CHECK(reference::error(numeric, reference::rope_backward(dy, 123, as)) < 1e-12);
    }
}

TEST_CASE("rope: every version agrees with the reference at ten scales, forward and back") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int width : {2, 10, 22, 64})
      for (const double size : reference::scales(1e-3, 1e3)) {
        CAPTURE(width);
        const Problem p(20, 3, width, size);
        const reference::Turned as{reference::plain_frequencies(static_cast<size_t>(width), 10000)};
        const std::vector<float> x = reference::narrow(p.x);
        CHECK(reference::error(expected(p, as, 1), run(p, x, Turn::kForward, 2)) < 1e-6);
        CHECK(reference::error(expected(p, as, -1), run(p, x, Turn::kBack, 2)) < 1e-6);
        CHECK(reference::error(p.x, run(p, run(p, x, Turn::kForward, 1), Turn::kBack, 1)) < 1e-6);
      }
  });
}

TEST_CASE("rope: a part of each head in either kind of pairs, with a factor; the rest keeps its bits") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const Pairs pairs : {Pairs::kHalves, Pairs::kNeighbours})
      for (const auto& [width, offset, turning] :
           {std::array{24, 0, 24}, {24, 14, 10}, {24, 0, 6}, {96, 32, 64}, {7, 3, 2}}) {
        CAPTURE(width);
        CAPTURE(offset);
        const Problem p(20, 3, width, 1);
        const reference::Turned as{reference::plain_frequencies(static_cast<size_t>(turning), 10000), 1.25, pairs,
                                   static_cast<size_t>(offset)};
        const std::vector<float> y = run(p, as, Turn::kForward);
        CHECK(reference::error(expected(p, as, 1), y) < 1e-6);
        CHECK(reference::error(expected(p, as, -1), run(p, as, Turn::kBack)) < 1e-6);
        for (size_t i = 0; i < y.size(); ++i) {
          const int column = static_cast<int>(i) % width;
          if (column < offset || column >= offset + turning) CHECK(y[i] == static_cast<float>(p.x[i]));
        }
      }
  });
}

TEST_CASE("rope: neighbours are halves in another order, which a dot product does not see") {
  const Problem p(2, 1, 16, 1);
  Problem moved = p;
  for (size_t row = 0; row < 2; ++row)
    for (size_t i = 0; i < 8; ++i) {
      moved.x[row * 16 + i] = p.x[row * 16 + 2 * i];
      moved.x[row * 16 + 8 + i] = p.x[row * 16 + 2 * i + 1];
    }
  const auto dot = [](const std::vector<float>& y) {
    double sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += static_cast<double>(y[i]) * static_cast<double>(y[16 + i]);
    return sum;
  };
  const std::vector<double> inverse = reference::plain_frequencies(16, 10000);
  const double neighbours = dot(run(p, {inverse, 1, Pairs::kNeighbours}, Turn::kForward));
  CHECK(dot(run(moved, {inverse, 1, Pairs::kHalves}, Turn::kForward)) == doctest::Approx(neighbours).epsilon(1e-5));
  CHECK(std::abs(dot(run(p, {inverse, 1, Pairs::kHalves}, Turn::kForward)) - neighbours) > 1e-2);
}

TEST_CASE("rope: columns of a wider matrix turn, and nothing beside them") {
  Threads pool(1);
  const std::vector<float> table = table_of(rope_frequencies(kPlain, 4, kPositions));
  const std::vector<int> positions{5, 9};
  const std::vector<float> was = reference::narrow(reference::random(20, 1, 1));
  std::vector<float> x = was, alone;
  for (size_t row = 0; row < 2; ++row) alone.insert(alone.end(), &was[row * 10 + 6], &was[row * 10] + 10);
  rope({x.data() + 6, 2, 4, 10}, positions, {{table.data(), kPositions, 4}}, Turn::kForward, pool);
  rope({alone.data(), 2, 4}, positions, {{table.data(), kPositions, 4}}, Turn::kForward, pool);
  for (size_t i = 0; i < 20; ++i) CHECK(x[i] == (i % 10 < 6 ? was[i] : alone[i / 10 * 4 + i % 10 - 6]));
}

TEST_CASE("rope: the angles of the table are computed in double") {
  std::vector<float> table(100001 * 2);
  rope_table(rope_frequencies(kPlain, 2, 100001), {table.data(), 100001, 2});
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
