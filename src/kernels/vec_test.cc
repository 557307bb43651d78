#include "kernels/vec.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/compare.h"

namespace choir::kernels {
namespace {

void exp_plain(float* x) { store(x, exp(load(x))); }
CHOIR_AVX2 void exp_avx2(float* x) { store(x, exp(load(x))); }
CHOIR_AVX512 void exp_avx512(float* x) { store(x, exp(load(x))); }
constexpr Versions<void(float*)> exp_of{exp_plain, exp_avx2, exp_avx512};

template <class Half>
struct Load {
  static void plain(const Half* from, float* to) { store(to, load(from)); }
  CHOIR_AVX2 static void avx2(const Half* from, float* to) { store(to, load(from)); }
  CHOIR_AVX512 static void avx512(const Half* from, float* to) { store(to, load(from)); }
  static constexpr Versions<void(const Half*, float*)> of{plain, avx2, avx512};
};

TEST_CASE("vec: exp is within 2e-7 over its range") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    double worst = 0;
    for (double at = -87.2; at < 88; at += 16 * 0.00037) {
      float x[kLanes], y[kLanes];
      for (int i = 0; i < kLanes; ++i) x[i] = y[i] = static_cast<float>(at + i * 0.00037);
      exp_of(y);
      for (int i = 0; i < kLanes && x[i] <= 88; ++i)
        worst = std::max(worst, std::abs(static_cast<double>(y[i]) / std::exp(static_cast<double>(x[i])) - 1));
    }
    CHECK(worst < 2e-7);
  });
}

TEST_CASE("vec: exp of what is out of range") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    float x[kLanes] = {0.0f, -0.0f, -88.0f, -1e30f, -infinity, 89.0f, 1e30f, infinity, nan, -nan, 1e-30f};
    exp_of(x);
    CHECK(x[0] == 1.0f);
    CHECK(x[1] == 1.0f);
    for (int i = 2; i < 5; ++i) CHECK(x[i] == 0.0f);
    for (int i = 5; i < 8; ++i) CHECK(x[i] == doctest::Approx(std::exp(88.0)));
    CHECK(std::isnan(x[8]));
    CHECK(std::isnan(x[9]));
    CHECK(x[10] == 1.0f);
  });
}

template <class Half>
void check_all_patterns() {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    int wrong = 0;
    for (int first = 0; first < 65536; first += kLanes) {
      Half half[kLanes];
      float got[kLanes];
      for (int i = 0; i < kLanes; ++i) half[i] = {static_cast<uint16_t>(first + i)};
      Load<Half>::of(static_cast<const Half*>(half), static_cast<float*>(got));
      for (int i = 0; i < kLanes; ++i)
        wrong += std::bit_cast<uint32_t>(got[i]) != std::bit_cast<uint32_t>(static_cast<float>(half[i]));
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("vec: all bit patterns of F16 widen as the scalar conversion does") { check_all_patterns<tensor::F16>(); }
TEST_CASE("vec: all bit patterns of BF16 widen as the scalar conversion does") { check_all_patterns<tensor::BF16>(); }

TEST_CASE("vec: parts of sixteen, sums and largest") {
  for (int n = 1; n <= kLanes; ++n) {
    const std::vector<float> x(static_cast<size_t>(n), 2.0f);  // exactly n: the sanitizer sees a read behind
    std::vector<float> y(static_cast<size_t>(n), 0.0f);
    CHECK(sum(load(x.data(), n)) == 2.0f * static_cast<float>(n));
    CHECK(sum(load(x.data(), n, 1.0f)) == 16.0f + static_cast<float>(n));
    store(y.data(), load(x.data(), n), n);
    CHECK(y == x);
  }
  const Vec v = {3, -1, 4, 1, -5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
  CHECK(largest(v) == 9);
  CHECK(largest(max(v, 5.0f - v)) == 10);
}

}  // namespace
}  // namespace choir::kernels
