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
    linear_forward(input, weight, {}, {plain.data(), kRows, kOut}, threads, sums);
    linear_forward(input, weight, Matrix<const float>(bias.data(), 1, kOut), {biased.data(), kRows, kOut}, threads,
                   sums);
    kernels::gemm_forward(input, weight, {product.data(), kRows, kOut}, threads, sums);
    CHECK(plain == product);
    for (int i = 0; i < kRows * kOut; ++i) CHECK(biased[i] == plain[i] + bias[i % kOut]);
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
  CHECK_THROWS(linear_forward({x.data(), 1, kIn}, Matrix<const float>(w.data(), kOut, kIn),
                              Matrix<const float>(x.data(), 1, kIn), {y.data(), 1, kOut}, threads,
                              kernels::Sums::kLanes));
}

}  // namespace
}  // namespace choir::nn
