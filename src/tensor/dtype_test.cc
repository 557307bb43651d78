#include "tensor/dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "base/error.h"

namespace choir::tensor {
namespace {

template <class Half>
int failed_round_trips() {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const auto value = static_cast<float>(half);
    const Half back = Half::from(value);
    wrong += std::isnan(value) ? !std::isnan(static_cast<float>(back)) || (back.bits & 0x8000) != (bits & 0x8000)
                               : back.bits != bits;
  }
  return wrong;
}

// The value of a bit pattern by the definition of the format.
double defined(uint32_t bits, int exponent_bits, int fraction_bits) {
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const double fraction = std::ldexp(bits & ((1u << fraction_bits) - 1), -fraction_bits);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  return sign * (exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias));
}

// Between two neighbours a float goes to the nearer, from the middle to the even one.
template <class Half>
int failed_roundings(int exponent_bits, int fraction_bits) {
  int wrong = 0;
  const uint32_t infinity = ((1u << exponent_bits) - 1) << fraction_bits;
  for (uint32_t bits = 0; bits < infinity; ++bits) {
    const double low = defined(bits, exponent_bits, fraction_bits);
    // Above the largest number stands the one that infinity's pattern would be, were it one more exponent.
    const double high =
        bits + 1 < infinity ? defined(bits + 1, exponent_bits, fraction_bits) : std::ldexp(1, 1 << (exponent_bits - 1));
    const auto middle = static_cast<float>((low + high) / 2);
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    for (const float sign : {1.0f, -1.0f}) {
      const uint32_t minus = sign < 0 ? 0x8000 : 0;
      wrong += Half::from(sign * middle).bits != (even | minus);
      wrong += Half::from(sign * std::nextafter(middle, 0.0f)).bits != (bits | minus);
      wrong += Half::from(sign * std::nextafter(middle, HUGE_VALF)).bits != ((bits + 1) | minus);
    }
  }
  return wrong;
}

template <class Half>
int failed_values(int exponent_bits, int fraction_bits) {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double want = defined(bits, exponent_bits, fraction_bits);
    const auto got = static_cast<double>(static_cast<float>(Half{static_cast<uint16_t>(bits)}));
    wrong += std::isnan(want) ? !std::isnan(got) : got != want || std::signbit(got) != std::signbit(want);
  }
  return wrong;
}

TEST_CASE("F16: every bit pattern has its defined value and comes back") {
  CHECK(failed_values<F16>(5, 10) == 0);
  CHECK(failed_round_trips<F16>() == 0);
}

TEST_CASE("BF16: every bit pattern has its defined value and comes back") {
  CHECK(failed_values<BF16>(8, 7) == 0);
  CHECK(failed_round_trips<BF16>() == 0);
}

TEST_CASE("F16 and BF16: floats round to the nearest, ties to even") {
  CHECK(failed_roundings<F16>(5, 10) == 0);
  CHECK(failed_roundings<BF16>(8, 7) == 0);
}

TEST_CASE("F16: what is too large becomes infinite") {
  CHECK(F16::from(65519.0f).bits == 0x7bff);
  CHECK(F16::from(65520.0f).bits == 0x7c00);
  CHECK(F16::from(-1e30f).bits == 0xfc00);
  CHECK(F16::from(HUGE_VALF).bits == 0x7c00);
}

TEST_CASE("dtype: names and sizes are those of safetensors") {
  for (const auto& [name, bytes] : std::vector<std::pair<std::string_view, size_t>>{{"F32", 4},
                                                                                    {"F16", 2},
                                                                                    {"BF16", 2},
                                                                                    {"F64", 8},
                                                                                    {"I64", 8},
                                                                                    {"I32", 4},
                                                                                    {"I16", 2},
                                                                                    {"I8", 1},
                                                                                    {"U8", 1},
                                                                                    {"BOOL", 1},
                                                                                    {"F8_E4M3", 1}}) {
    const auto type = dtype_named(name);
    REQUIRE(type);
    CHECK(name_of(*type) == name);
    CHECK(size_of(*type) == bytes);
  }
  CHECK(!dtype_named("f32"));
}

TEST_CASE("F8_E4M3: every code has its defined value, largest 448, and one NaN of each sign") {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const auto value = static_cast<float>(F8E4M3{static_cast<uint8_t>(bits)});
    const int exponent = static_cast<int>(bits >> 3) & 15;
    const double fraction = (bits & 7) / 8.0, sign = bits & 0x80 ? -1 : 1;
    if ((bits & 0x7f) == 0x7f)
      CHECK(std::isnan(value));
    else
      CHECK(value == sign * (exponent == 0 ? std::ldexp(fraction, -6) : std::ldexp(1 + fraction, exponent - 7)));
    CHECK(std::signbit(value) == (sign < 0));
  }
  CHECK(static_cast<float>(F8E4M3{0x7e}) == 448);
}

TEST_CASE("formats with blocks: sizes of blocks and rows, no size of a number, no name in safetensors") {
  CHECK(bytes_of(DType::kQ8_0, 64) == 68);
  CHECK(bytes_of(DType::kQ4_0, 64) == 36);
  CHECK(bytes_of(DType::kQ4_K, 512) == 288);
  CHECK(bytes_of(DType::kQ6_K, 512) == 420);
  CHECK(bytes_of(DType::kMXFP4, 64) == 34);
  CHECK(bytes_of(DType::kBF16, 3) == 6);
  CHECK_THROWS_AS(bytes_of(DType::kQ8_0, 33), base::Error);
  CHECK_THROWS_AS(size_of(DType::kQ4_K), base::Error);
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4}) {
    CHECK(is_blocked(type));
    CHECK(!dtype_named(name_of(type)));
  }
}

}  // namespace
}  // namespace choir::tensor
