#include "kernels/transposed_gemm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/reference/compare.h"
#include "tensor/buffer.h"

namespace choir::kernels {
namespace {

using tensor::Buffer;
using tensor::DType;

Buffer<float> random(int rows, int cols, uint64_t seed) {
  Buffer<float> buffer(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  base::Rng rng(seed);
  for (float& v : buffer.span()) v = rng.normal();
  return buffer;
}

// Groups of 1, 0, 6 and 4 rows, gathered from seven; weights in every format, widened for the plain loops.
struct Case {
  int o, i;
  const std::vector<int32_t> offset{0, 1, 1, 7, 11}, row{6, 0, 3, 3, 5, 1, 2, 4, 6, 0, 1};
  Buffer<float> x = random(7, o, 1), wide = random(4 * o, i, 2);
  std::vector<uint16_t> narrow;
  std::vector<Weight> weights;

  Case(int o_, int i_, DType type) : o(o_), i(i_) {
    for (float& v : wide.span()) {
      const auto bf16 = tensor::BF16::from(v);
      const auto f16 = tensor::F16::from(v);
      if (type == DType::kF32) continue;
      narrow.push_back(type == DType::kBF16 ? bf16.bits : f16.bits);
      v = type == DType::kBF16 ? static_cast<float>(bf16) : static_cast<float>(f16);
    }
    const size_t size = static_cast<size_t>(o) * static_cast<size_t>(i);
    for (size_t e = 0; e < 4; ++e)
      weights.emplace_back(narrow.empty() ? static_cast<const void*>(&wide[e * size]) : &narrow[e * size], type, o, i);
  }

  std::vector<float> run(int thread_count) const {
    base::Threads threads(thread_count);
    std::vector<float> y(static_cast<size_t>(11 * i));
    transposed_forward({offset, row}, x.matrix(7, o), weights, {y.data(), 11, i}, threads);
    return y;
  }

  std::vector<double> plain() const {
    std::vector<double> y;
    for (int e = 0; e < 4; ++e)
      for (int p = offset[e]; p < offset[e + 1]; ++p)
        for (int c = 0; c < i; ++c) {
          double sum = 0;
          for (int k = 0; k < o; ++k)
            sum += static_cast<double>(x[row[p] * o + k]) * static_cast<double>(wide[(e * o + k) * i + c]);
          y.push_back(sum);
        }
    return y;
  }
};

TEST_CASE("transposed product: plain loops, in every format and for every instruction set") {
  for (const auto& [o, i] : {std::pair{1, 1}, {3, 16}, {14, 22}, {40, 64}, {128, 200}, {33, 512}})
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      CAPTURE(i);
      CAPTURE(tensor::name_of(type));
      const Case c(o, i, type);
      const auto want = c.plain();
      reference::for_each_isa([&](Isa) { CHECK(reference::error(want, c.run(2)) < 3e-7 * std::sqrt(o)); });
    }
}

TEST_CASE("transposed product: weights of blocks give what their numbers give, bit for bit") {
  for (const DType type : {DType::kQ8_0, DType::kQ4_0}) {
    Case wide(9, 96, DType::kF32), blocks(9, 96, DType::kF32);
    std::vector<std::byte> bytes(tensor::bytes_of(type, wide.wide.size()));
    tensor::narrow(wide.wide.span(), type, bytes);
    tensor::widen({bytes.data(), type, 4 * wide.o, wide.i}, wide.wide.span());
    for (int e = 0; e < 4; ++e)
      blocks.weights[static_cast<size_t>(e)] = {bytes.data() + static_cast<size_t>(e) * bytes.size() / 4, type, 9, 96};
    reference::for_each_isa([&](Isa) { CHECK(blocks.run(2) == wide.run(1)); });
  }
}

TEST_CASE("transposed product: a row's bits depend neither on the other rows nor on the number of threads") {
  const Case c(40, 150, DType::kBF16);
  const auto y = c.run(1);
  CHECK(c.run(3) == y);
  base::Threads threads(1);
  const std::vector<int32_t> one{0, 1};
  for (int e = 0; e < 4; ++e)
    for (int p = c.offset[e]; p < c.offset[e + 1]; ++p) {
      std::vector<float> alone(150);
      transposed_forward({one, {&c.row[p], 1}}, c.x.matrix(7, 40), {&c.weights[e], 1}, {alone.data(), 1, 150}, threads);
      CHECK(std::equal(alone.begin(), alone.end(), y.begin() + p * 150));
    }
}

TEST_CASE("transposed product: a result between other numbers leaves them alone") {
  const Case c(5, 37, DType::kF32);
  base::Threads threads(1);
  std::vector<float> wide(11 * 40, 7.0f);
  transposed_forward({c.offset, c.row}, c.x.matrix(7, 5), c.weights, {wide.data() + 1, 11, 37, 40}, threads);
  const auto y = c.run(1);
  for (int p = 0; p < 11; ++p)
    for (int j = 0; j < 40; ++j) CHECK(wide[p * 40 + j] == (j >= 1 && j < 38 ? y[p * 37 + j - 1] : 7.0f));
}

TEST_CASE("transposed product: sizes that do not fit, and formats it cannot read, are refused") {
  const Case c(5, 37, DType::kF32);
  base::Threads threads(1);
  std::vector<float> y(11 * 37);
  CHECK_THROWS_AS(transposed_forward({c.offset, c.row}, c.x.matrix(8, 4), c.weights, {y.data(), 11, 37}, threads),
                  base::Error);
  CHECK_THROWS_AS(transposed_forward({c.offset, c.row}, c.x.matrix(7, 5), c.weights, {y.data(), 10, 37}, threads),
                  base::Error);
  auto whole = c.weights;
  whole[3].type = DType::kI32;
  CHECK_THROWS_AS(transposed_forward({c.offset, c.row}, c.x.matrix(7, 5), whole, {y.data(), 11, 37}, threads),
                  base::Error);
}

}  // namespace
}  // namespace choir::kernels
