#include "train/moments.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"

namespace choir::train {
namespace {

constexpr size_t kSize = 300000;  // more than one piece

std::vector<float> normal(uint64_t seed) {
  base::Rng rng(seed);
  std::vector<float> x(kSize);
  for (float& v : x) v = rng.normal();
  return x;
}

kernels::AdamwStep step_of(int number) { return {1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, number, 1}; }

TEST_CASE("moments: half the memory, and nearly the same way") {
  base::Threads threads(2);
  Moments wide(kSize, tensor::DType::kF32), narrow(kSize, tensor::DType::kBF16);
  CHECK(narrow.first().size() * 2 == wide.first().size());
  std::vector<float> a = normal(1), b = a;
  const std::vector<float> drift = normal(2);
  for (int number = 1; number <= 60; ++number) {
    std::vector<float> gradient = normal(100 + static_cast<uint64_t>(number));
    for (size_t i = 0; i < kSize; ++i) gradient[i] += drift[i];
    wide.update(step_of(number), a, gradient, 0, threads);
    narrow.update(step_of(number), b, gradient, 0, threads);
  }
  double apart = 0, bias = 0;
  for (size_t i = 0; i < kSize; ++i) {
    apart += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2) / kSize;
    bias += (static_cast<double>(a[i]) - static_cast<double>(b[i])) / kSize;
  }
  CHECK(std::sqrt(apart) < 0.01 * 60 * 1e-3);  // of the way that a parameter may go
  CHECK(std::abs(bias) < 1e-6);
}

TEST_CASE("moments: a slow mean in bfloat16 does not stand still") {
  base::Threads threads(1);
  Moments narrow(kSize, tensor::DType::kBF16);
  std::vector<float> value(kSize);
  const std::vector<float> gradient(kSize, 1.0f);
  for (int number = 1; number <= 1500; ++number)
    narrow.update(step_of(number), std::span(value).first(2000), std::span(gradient).first(2000), 0, threads);
  const auto* second = reinterpret_cast<const tensor::BF16*>(narrow.second().data());
  double mean = 0;
  for (int i = 0; i < 2000; ++i) mean += static_cast<double>(static_cast<float>(second[i])) / 2000;
  CHECK(mean == doctest::Approx(1 - std::pow(0.999, 1500)).epsilon(0.01));
}

TEST_CASE("moments: neither threads nor how the parameters are cut change a bit") {
  const std::vector<float> gradient = normal(3);
  const auto run = [&](int thread_count, size_t cut) {
    base::Threads threads(thread_count);
    Moments moments(kSize, tensor::DType::kBF16);
    std::vector<float> value = normal(4);
    for (int number = 1; number <= 2; ++number)
      for (const auto& [begin, size] : {std::pair{size_t{0}, cut}, std::pair{cut, kSize - cut}})
        moments.update(step_of(number), std::span(value).subspan(begin, size), std::span(gradient).subspan(begin, size),
                       begin, threads);
    std::vector<std::byte> bytes(moments.second().begin(), moments.second().end());
    return std::pair(value, bytes);
  };
  CHECK(run(1, 16) == run(3, 288000));
}

}  // namespace
}  // namespace choir::train
