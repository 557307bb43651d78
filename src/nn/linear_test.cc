#include "nn/linear.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/rng.h"

namespace choir::nn {
namespace {

constexpr int kRows = 70, kIn = 5, kOut = 67;  // more rows and columns than one piece holds

std::vector<float> random(int size, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = rng.normal();
  return values;
}

TEST_CASE("linear: the bias is added to every row, and without data to none") {
  const auto x = random(kRows * kIn, 1), w = random(kOut * kIn, 2), bias = random(kOut, 3);
  const Matrix<const float> weight(w.data(), kOut, kIn);
  Threads threads(2);
  for (const auto sums : {kernels::Sums::kLanes, kernels::Sums::kPacked}) {
    std::vector<float> plain(kRows * kOut), biased(plain.size()), product(plain.size());
    const Matrix<const float> input(x.data(), kRows, kIn);
    const Weight w_only(weight), none, some(Matrix<const float>(bias.data(), 1, kOut));
    PackedRoom room;
    linear_forward(input, {{w_only, none, {plain.data(), kRows, kOut}}, {w_only, some, {biased.data(), kRows, kOut}}},
                   room, threads, sums);
    kernels::gemm_forward(input, weight, {product.data(), kRows, kOut}, threads, sums);
    CHECK(plain == product);
    for (int i = 0; i < kRows * kOut; ++i) CHECK(biased[i] == plain[i] + bias[i % kOut]);
  }
}

// Weights in rows, packed numbers and packed blocks side by side: each has the bits of a call of its own, and only
// blocks round the input.
TEST_CASE("linear: maps of one input, in rows and in panels, alone and of experts") {
  const int rows = 6, in = 64, out = 20;
  const auto x = random(rows * in, 4), numbers = random(2 * out * in, 5), bias = random(out, 6);
  const Matrix<const float> input(x.data(), rows, in);
  Threads threads(2);
  const Weight lying(numbers.data(), tensor::DType::kF32, out, in), some(Matrix<const float>(bias.data(), 1, out)),
      none;
  std::vector<std::byte> q8(tensor::bytes_of(tensor::DType::kQ8_0, static_cast<size_t>(out * in)));
  tensor::narrow(std::span(numbers).first(lying.size()), tensor::DType::kQ8_0, q8);
  const Weight blocks(q8.data(), tensor::DType::kQ8_0, out, in);
  std::vector<std::vector<std::byte>> memory;
  const auto packed = [&](Weight w) {
    memory.emplace_back(kernels::packed_bytes({&w, 1}));
    kernels::pack({&w, 1}, memory.back(), threads);
    return w;
  };
  const Weight panels = packed(lying), byte_panels = packed(blocks);
  std::vector<float> a(rows * out), b(a), c(a), expected(a);
  PackedRoom room;
  linear_forward(input,
                 {{lying, some, {a.data(), rows, out}},
                  {panels, some, {b.data(), rows, out}},
                  {byte_panels, none, {c.data(), rows, out}}},
                 room, threads, kernels::Sums::kLanes);
  for (int i = 0; i < rows * out; ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-5).scale(8));
  const std::vector<float> with_bias = b;
  kernels::gemm_forward(input, blocks, {expected.data(), rows, out}, threads);
  CHECK(c != expected);
  for (int i = 0; i < rows * out; ++i) CHECK(c[i] == doctest::Approx(expected[i]).epsilon(0.02).scale(8));

  const int32_t offset[] = {0, 2, 6}, row[] = {5, 0, 1, 2, 3, 4};
  const Weight mixed[] = {byte_panels, panels}, in_rows[] = {lying, lying};
  const kernels::Product products[] = {{mixed, {a.data(), rows, out}}, {in_rows, {b.data(), rows, out}}};
  experts_linear_forward({offset, row}, input, products, room, threads, kernels::Sums::kLanes);
  kernels::gemm_forward(input, lying, {expected.data(), rows, out}, threads);
  for (int i = 0; i < rows; ++i)
    for (int o = 0; o < out; ++o) {
      CHECK(a[i * out + o] + (i < 2 ? 0 : bias[o]) == (i < 2 ? c : with_bias)[row[i] * out + o]);
      CHECK(b[i * out + o] == expected[row[i] * out + o]);
    }
}

TEST_CASE("linear: the gradient of the bias is the sum of the rows, for any number of threads") {
  const auto x = random(kRows * kIn, 1), dy = random(kRows * kOut, 2);
  std::vector<float> first;
  for (const int count : {1, 3}) {
    Threads threads(count);
    std::vector<float> dw(kOut * kIn, 1.0f), dbias(kOut, 2.0f), dw_alone = dw;
    const Matrix<const float> input(x.data(), kRows, kIn), dout(dy.data(), kRows, kOut);
    linear_backward_weight(dout, input, {dw.data(), kOut, kIn}, {dbias.data(), 1, kOut}, threads);
    linear_backward_weight(dout, input, {dw_alone.data(), kOut, kIn}, {}, threads);
    CHECK(dw == dw_alone);
    for (int o = 0; o < kOut; ++o) {
      double sum = 2;
      for (int i = 0; i < kRows; ++i) sum += static_cast<double>(dy[i * kOut + o]);
      CHECK(dbias[o] == doctest::Approx(sum).epsilon(1e-5));
      for (int c = 0; c < kIn; ++c) {
        double product = 1;
        for (int i = 0; i < kRows; ++i)
          product += static_cast<double>(dy[i * kOut + o]) * static_cast<double>(x[i * kIn + c]);
        CHECK(dw[o * kIn + c] == doctest::Approx(product).epsilon(1e-4));
      }
    }
    if (first.empty()) first = dbias;
    CHECK(dbias == first);
  }
}

TEST_CASE("linear: a bias of another size is refused") {
  const auto x = random(kIn, 1), w = random(kOut * kIn, 2);
  std::vector<float> y(kOut);
  Threads threads(1);
  PackedRoom room;
  const Weight weight(Matrix<const float>(w.data(), kOut, kIn)), bias(Matrix<const float>(x.data(), 1, kIn));
  CHECK_THROWS(
      linear_forward({x.data(), 1, kIn}, {{weight, bias, {y.data(), 1, kOut}}}, room, threads, kernels::Sums::kLanes));
}

}  // namespace
}  // namespace choir::nn
