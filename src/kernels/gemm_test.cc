#include "kernels/gemm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/gemm_tile.h"
#include "kernels/grouped_gemm.h"
#include "kernels/reference/compare.h"
#include "tensor/buffer.h"

namespace choir::kernels {
namespace {

using tensor::BF16;
using tensor::Buffer;
using tensor::DType;
using tensor::F16;

Buffer<float> random_numbers(int rows, int cols, uint64_t seed) {
  Buffer<float> buffer(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  base::Rng rng(seed);
  for (float& v : buffer.span()) v = rng.normal();
  return buffer;
}

// The plain loops in double that every product is held against; bound is what rounding may cost.
double dot(const float* a, ptrdiff_t a_step, const float* b, ptrdiff_t b_step, int depth) {
  double sum = 0;
  for (int k = 0; k < depth; ++k) sum += static_cast<double>(a[k * a_step]) * static_cast<double>(b[k * b_step]);
  return sum;
}

double bound(int depth) { return 4e-6 * std::sqrt(static_cast<double>(depth)) + 1e-6; }

struct Sizes {
  int rows, out, in;
};

const Sizes kSizes[] = {{1, 1, 1},   {1, 9, 16},    {1, 40, 257},  {2, 5, 15},    {3, 17, 33},
                        {4, 4, 64},  {5, 92, 60},   {7, 60, 92},   {66, 64, 128}, {130, 96, 44},
                        {65, 31, 7}, {97, 129, 80}, {260, 70, 300}};

TEST_CASE("forward, backward to the input and to the weight equal plain loops") {
  base::Threads threads(3);
  for (const auto& [n, o, i] : kSizes) {
    CAPTURE(n);
    CAPTURE(o);
    CAPTURE(i);
    const auto x = random_numbers(n, i, 1), w = random_numbers(o, i, 2), dy = random_numbers(n, o, 3);
    Buffer<float> y(static_cast<size_t>(n * o)), dx(static_cast<size_t>(n * i)), dw(static_cast<size_t>(o * i));
    for (const Sums sums : {Sums::kLanes, Sums::kPacked}) {
      gemm_forward(x.matrix(n, i), Weight(w.matrix(o, i)), y.matrix(n, o), threads, sums);
      double worst = 0;
      for (int r = 0; r < n; ++r)
        for (int c = 0; c < o; ++c)
          worst = std::max(worst, std::abs(y.matrix(n, o)[r][c] - dot(&x[r * i], 1, &w[c * i], 1, i)));
      CHECK(worst <= bound(i));
    }
    gemm_backward_input(dy.matrix(n, o), w.matrix(o, i), dx.matrix(n, i), Write::kSet, threads);
    for (float& v : dw.span()) v = 1;
    gemm_backward_weight(dy.matrix(n, o), x.matrix(n, i), dw.matrix(o, i), threads);
    double worst_dx = 0, worst_dw = 0;
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < i; ++c)
        worst_dx = std::max(worst_dx, std::abs(dx.matrix(n, i)[r][c] - dot(&dy[r * o], 1, &w[c], i, o)));
    for (int r = 0; r < o; ++r)
      for (int c = 0; c < i; ++c)
        worst_dw = std::max(worst_dw, std::abs(dw.matrix(o, i)[r][c] - 1 - dot(&dy[r], o, &x[c], i, n)));
    CHECK(worst_dx <= bound(o));
    CHECK(worst_dw <= bound(n));
    gemm_backward_input(dy.matrix(n, o), w.matrix(o, i), dx.matrix(n, i), Write::kAdd, threads);
    CHECK(std::abs(dx[0] - 2 * dot(&dy[0], 1, &w[0], i, o)) <= 2 * bound(o));
  }
}

TEST_CASE("every version of the dot tile gives the plain loops' result") {
  const int n = 7, o = 21, i = 53;
  const auto x = random_numbers(n, i, 4), w = random_numbers(o, i, 5);
  std::vector<const float*> rows;
  for (int r = 0; r < n; ++r) rows.push_back(&x[r * i]);
  std::vector<Isa> levels{Isa::kPlain};
  if (best_isa() >= Isa::kAvx2) levels.push_back(Isa::kAvx2);
  if (best_isa() >= Isa::kAvx512) levels.push_back(Isa::kAvx512);
  for (const Isa isa : levels) {
    CAPTURE(name_of(isa));
    std::vector<float> y(n * o);
    dot_for(DType::kF32).at(isa)(DotBlock{rows.data(), w.data(), i, y.data(), o, n, o, i});
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < o; ++c) CHECK(std::abs(y[r * o + c] - dot(&x[r * i], 1, &w[c * i], 1, i)) <= bound(i));
  }
}

TEST_CASE("weights of two bytes are widened exactly") {
  base::Threads threads(1);
  const int n = 5, o = 11, i = 37;
  const auto x = random_numbers(n, i, 7), w = random_numbers(o, i, 8);
  std::vector<BF16> brain(o * i);
  std::vector<F16> half(o * i);
  for (int k = 0; k < o * i; ++k) {
    brain[k] = BF16::from(w[k]);
    half[k] = F16::from(w[k]);
  }
  for (const Weight& weight : {Weight(brain.data(), DType::kBF16, o, i), Weight(half.data(), DType::kF16, o, i)}) {
    Buffer<float> wide(static_cast<size_t>(o * i)), expected(static_cast<size_t>(n * o)), y(expected.size());
    tensor::widen(weight, wide.span());
    gemm_forward(x.matrix(n, i), Weight(wide.matrix(o, i)), expected.matrix(n, o), threads);
    gemm_forward(x.matrix(n, i), weight, y.matrix(n, o), threads);
    CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
  }
}

// Blocks of any bytes, with scales that stay small, of `o` rows of `i` numbers.
Weight random_blocks(DType type, int o, int i, base::Rng& rng, std::vector<std::byte>& bytes) {
  const tensor::Block block = tensor::block_of(type);
  bytes.resize(static_cast<size_t>(o) * tensor::bytes_of(type, static_cast<size_t>(i)));
  for (std::byte& b : bytes) b = static_cast<std::byte>(rng.below(256));
  const bool at_end = type == DType::kQ6_K, power = type == DType::kMXFP4, two = type == DType::kQ4_K;
  for (size_t at = 0; at < bytes.size(); at += block.bytes) {
    const auto place = [&](size_t offset) { bytes[at + offset] = static_cast<std::byte>(0x20 + rng.below(12)); };
    if (power)
      bytes[at] = static_cast<std::byte>(rng.below(8) == 0 ? rng.below(3) : 118 + rng.below(8));
    else
      place(at_end ? 209 : 1);
    if (two) place(3);
  }
  return {bytes.data(), type, o, i};
}

TEST_CASE("weights of blocks give what their numbers give, bit for bit, in every version") {
  base::Threads threads(2);
  base::Rng rng(21);
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4})
    reference::for_each_isa([&](Isa isa) {
      CAPTURE(tensor::name_of(type));
      CAPTURE(name_of(isa));
      const int o = 13, i = static_cast<int>(tensor::block_of(type).numbers) * 3;
      std::vector<std::byte> bytes;
      const Weight weight = random_blocks(type, o, i, rng, bytes);
      Buffer<float> wide(weight.size());
      tensor::widen(weight, wide.span());
      for (const int n : {1, 6}) {
        const auto x = random_numbers(n, i, 22);
        Buffer<float> expected(static_cast<size_t>(n * o)), y(expected.size());
        gemm_forward(x.matrix(n, i), Weight(wide.matrix(o, i)), expected.matrix(n, o), threads);
        gemm_forward(x.matrix(n, i), weight, y.matrix(n, o), threads);
        CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
      }
    });
  std::vector<std::byte> bytes(100);
  Buffer<float> x(32), y(1);
  CHECK_THROWS_AS(gemm_forward(x.matrix(1, 32), {bytes.data(), DType::kI8, 1, 32}, y.matrix(1, 1), threads),
                  base::Error);
}

TEST_CASE("a row's bits depend neither on the other rows nor on the number of threads") {
  const int n = 150, o = 70, i = 90;
  const auto x = random_numbers(n, i, 9), w = random_numbers(o, i, 10);
  base::Threads one(1), three(3);
  Buffer<float> all(static_cast<size_t>(n * o)), single(static_cast<size_t>(o)), again(all.size());
  gemm_forward(x.matrix(n, i), Weight(w.matrix(o, i)), all.matrix(n, o), one);
  gemm_forward(x.matrix(n, i), Weight(w.matrix(o, i)), again.matrix(n, o), three);
  CHECK(std::memcmp(all.data(), again.data(), all.size() * sizeof(float)) == 0);
  for (int r = 0; r < n; ++r) {
    gemm_forward(x.matrix(n, i).slice_rows(r, 1), Weight(w.matrix(o, i)), single.matrix(1, o), one);
    CHECK(std::memcmp(all.matrix(n, o)[r], single.data(), single.size() * sizeof(float)) == 0);
  }
}

// Three experts of unequal width, one without tokens, with a gather, against one product for each expert.
TEST_CASE("grouped products equal one product for each expert") {
  const int n = 40, i = 35;
  const std::vector<int32_t> offset{0, 23, 23, 61}, widths{20, 50, 33};
  std::vector<int32_t> row;
  base::Rng rng(11);
  for (int m = 0; m < offset.back(); ++m) row.push_back(static_cast<int32_t>(rng.below(n)));
  const int m = offset.back(), widest = 50;
  const auto x = random_numbers(n, i, 12), dy = random_numbers(m, widest, 13);
  std::vector<Buffer<float>> w, dw;
  std::vector<Weight> weights;
  std::vector<Matrix<const float>> matrices;
  std::vector<Matrix<float>> gradients;
  for (size_t e = 0; e < widths.size(); ++e) {
    w.push_back(random_numbers(widths[e], i, 20 + e));
    dw.emplace_back(static_cast<size_t>(widths[e] * i));
    matrices.emplace_back(w[e].matrix(widths[e], i));
    weights.emplace_back(matrices[e]);
    gradients.push_back(dw[e].matrix(widths[e], i));
  }
  base::Threads threads(2);
  Buffer<float> y(static_cast<size_t>(m * widest)), dx(static_cast<size_t>(m * i));
  const Groups groups{offset, row};
  grouped_forward(groups, x.matrix(n, i), weights, y.matrix(m, widest), threads);
  grouped_backward_input(groups, dy.matrix(m, widest), matrices, dx.matrix(m, i), Write::kSet, threads);
  grouped_backward_weight(groups, dy.matrix(m, widest), x.matrix(n, i), gradients, threads);
  for (size_t e = 0; e < widths.size(); ++e) {
    for (int p = offset[e]; p < offset[e + 1]; ++p) {
      for (int c = 0; c < widths[e]; ++c)
        CHECK(std::abs(y[p * widest + c] - dot(&x[row[p] * i], 1, &w[e][c * i], 1, i)) <= bound(i));
      for (int c = 0; c < i; ++c)
        CHECK(std::abs(dx[p * i + c] - dot(&dy[p * widest], 1, &w[e][c], i, widths[e])) <= bound(widths[e]));
    }
    for (int r = 0; r < widths[e]; ++r)
      for (int c = 0; c < i; ++c) {
        double expected = 0;
        for (int p = offset[e]; p < offset[e + 1]; ++p)
          expected += static_cast<double>(dy[p * widest + r]) * static_cast<double>(x[row[p] * i + c]);
        CHECK(std::abs(dw[e][r * i + c] - expected) <= bound(40));
      }
  }
}

}  // namespace
}  // namespace choir::kernels
