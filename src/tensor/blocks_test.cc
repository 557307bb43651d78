#include "tensor/blocks.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "tensor/view.h"

namespace choir::tensor {
namespace {

using Bytes = std::vector<std::byte>;

// The same bytes on every machine, and in the program that asked ggml for what the golden tests expect.
class Dice {
 public:
  explicit Dice(uint32_t seed) : state_(seed) {}
  uint32_t byte() { return (state_ = state_ * 1664525 + 1013904223) >> 24; }
  uint32_t below(uint32_t n) { return (byte() << 8 | byte()) % n; }

 private:
  uint32_t state_;
};

std::byte as_byte(int value) { return static_cast<std::byte>(value); }

void put_half(Bytes& block, size_t at, F16 half) { std::memcpy(block.data() + at, &half, sizeof half); }

std::vector<float> decoded(DType type, const Bytes& bytes) {
  std::vector<float> numbers(bytes.size() / block_of(type).bytes * block_of(type).numbers);
  decode_blocks(type, bytes.data(), numbers);
  return numbers;
}

// Finite halves of every kind: zero, subnormal, normal, the largest, both signs.
const std::vector<uint16_t> kHalves{0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x2e66, 0x3c00, 0xbc01, 0x7bff, 0xfbff};

TEST_CASE("Q8_0: every code under scales of every kind") {
  for (const uint16_t bits : kHalves)
    for (int first = 0; first < 256; first += 32) {
      Bytes block(34);
      put_half(block, 0, {bits});
      for (int i = 0; i < 32; ++i) block[static_cast<size_t>(2 + i)] = as_byte(first + i);
      const auto x = decoded(DType::kQ8_0, block);
      for (int i = 0; i < 32; ++i) {
        const int q = first + i < 128 ? first + i : first + i - 256;
        CHECK(static_cast<double>(x[static_cast<size_t>(i)]) == static_cast<double>(static_cast<float>(F16{bits})) * q);
      }
    }
}

TEST_CASE("Q4_0: every code at every place under scales of every kind") {
  for (const uint16_t bits : kHalves)
    for (int shift = 0; shift < 16; ++shift) {
      Bytes block(18);
      put_half(block, 0, {bits});
      const auto q = [&](int i) { return (i * 7 + shift) % 16; };
      for (int i = 0; i < 32; ++i) block[static_cast<size_t>(2 + i % 16)] |= as_byte(q(i) << (i < 16 ? 0 : 4));
      const auto x = decoded(DType::kQ4_0, block);
      for (int i = 0; i < 32; ++i)
        CHECK(static_cast<double>(x[static_cast<size_t>(i)]) ==
              static_cast<double>(static_cast<float>(F16{bits})) * (q(i) - 8));
    }
}

// By the definition of the format: sign, two bits of exponent with bias 1, one of fraction.
double e2m1(int code) {
  const int exponent = (code >> 1) & 3;
  const double fraction = (code & 1) / 2.0;
  return (code & 8 ? -1 : 1) * (exponent == 0 ? fraction : std::ldexp(1 + fraction, exponent - 1));
}

TEST_CASE("MXFP4: every byte under every scale") {
  for (int e = 0; e < 256; ++e)
    for (int first = 0; first < 256; first += 16) {
      Bytes block{as_byte(e)};
      for (int i = 0; i < 16; ++i) block.push_back(as_byte(first + i));
      const auto x = decoded(DType::kMXFP4, block);
      for (int i = 0; i < 16; ++i)
        for (const bool high : {false, true}) {
          const int code = high ? (first + i) / 16 : (first + i) % 16;
          const float got = x[static_cast<size_t>(high ? i + 16 : i)];
          if (e == 255)
            CHECK(std::isnan(got));
          else  // 2^127 times 4 or 6 is beyond the floats
            CHECK(got == static_cast<float>(std::ldexp(e2m1(code), e - 127)));
        }
    }
}

TEST_CASE("MXFP4: the two layouts hold the same numbers and turn into each other") {
  Dice dice(3);
  Bytes nibbles(16 * 5), scales(5), joined(17 * 5), nibbles_again(nibbles.size()), scales_again(5);
  for (std::byte& b : nibbles) b = as_byte(static_cast<int>(dice.byte()));
  for (std::byte& b : scales) b = as_byte(100 + static_cast<int>(dice.below(50)));
  join_mxfp4(nibbles, scales, joined);
  const auto x = decoded(DType::kMXFP4, joined);
  for (size_t i = 0; i < x.size(); ++i) {
    const int byte = std::to_integer<int>(nibbles[i / 2]), code = i % 2 == 0 ? byte % 16 : byte / 16;
    CHECK(x[i] == static_cast<float>(std::ldexp(e2m1(code), std::to_integer<int>(scales[i / 32]) - 127)));
  }
  split_mxfp4(joined, nibbles_again, scales_again);
  CHECK(nibbles_again == nibbles);
  CHECK(scales_again == scales);
  CHECK_THROWS_AS(join_mxfp4(nibbles, scales, nibbles_again), base::Error);
}

// Fills a block by the places of its numbers, one bit at a time.
void put_bits(Bytes& block, int byte, int first, int count, int value) {
  for (int b = 0; b < count; ++b)
    if (value >> b & 1) block[static_cast<size_t>(byte)] |= as_byte(1 << (first + b));
}

TEST_CASE("Q4_K: eight parts with a scale and a minimum of six bits each") {
  Dice dice(5);
  for (int round = 0; round < 40; ++round) {
    Bytes block(144);
    const F16 d = F16::from(0.01f * static_cast<float>(dice.below(200))),
              m = F16::from(-0.5f + 0.1f * static_cast<float>(round));
    put_half(block, 0, d);
    put_half(block, 2, m);
    std::array<int, 8> scale{}, min{};
    for (int p = 0; p < 8; ++p) {
      scale[p] = static_cast<int>(dice.below(64));
      min[p] = static_cast<int>(dice.below(64));
      put_bits(block, p < 4 ? 4 + p : 12 + p - 4, 0, p < 4 ? 6 : 4, scale[p] % (p < 4 ? 64 : 16));
      put_bits(block, p < 4 ? 8 + p : 12 + p - 4, p < 4 ? 0 : 4, p < 4 ? 6 : 4, min[p] % (p < 4 ? 64 : 16));
      if (p >= 4) put_bits(block, 4 + p - 4, 6, 2, scale[p] / 16);
      if (p >= 4) put_bits(block, 8 + p - 4, 6, 2, min[p] / 16);
    }
    std::array<int, 256> q{};
    for (int i = 0; i < 256; ++i) {
      q[i] = static_cast<int>(dice.below(16));
      put_bits(block, 16 + i / 64 * 32 + i % 32, i % 64 < 32 ? 0 : 4, 4, q[i]);
    }
    const auto x = decoded(DType::kQ4_K, block);
    for (int i = 0; i < 256; ++i) {
      const double exact = static_cast<double>(static_cast<float>(d)) * scale[i / 32] * q[i] -
                           static_cast<double>(static_cast<float>(m)) * min[i / 32];
      CHECK(x[static_cast<size_t>(i)] == static_cast<float>(exact));
    }
  }
}

TEST_CASE("Q6_K: sixteen parts with a scale of eight bits each") {
  Dice dice(6);
  for (int round = 0; round < 40; ++round) {
    Bytes block(210);
    const F16 d = F16::from(0.02f * static_cast<float>(round - 20));
    put_half(block, 208, d);
    std::array<int, 16> scale{};
    for (int p = 0; p < 16; ++p) {
      scale[p] = static_cast<int>(dice.below(256)) - 128;
      block[static_cast<size_t>(192 + p)] = as_byte(scale[p] & 255);
    }
    std::array<int, 256> q{};
    for (int i = 0; i < 256; ++i) {
      q[i] = static_cast<int>(dice.below(64));
      const int half = i / 128, within = i % 128;  // low nibbles are of the first 64 numbers of a half
      put_bits(block, half * 64 + within % 64, within < 64 ? 0 : 4, 4, q[i] % 16);
      put_bits(block, 128 + half * 32 + within % 32, within / 32 * 2, 2, q[i] / 16);
    }
    const auto x = decoded(DType::kQ6_K, block);
    for (int i = 0; i < 256; ++i)
      CHECK(static_cast<double>(x[static_cast<size_t>(i)]) ==
            static_cast<double>(static_cast<float>(d)) * scale[i / 16] * (q[i] - 32));
  }
}

uint64_t fnv(std::span<const std::byte> bytes) {
  uint64_t hash = 14695981039346656037ull;
  for (const std::byte b : bytes) hash = (hash ^ std::to_integer<uint64_t>(b)) * 1099511628211ull;
  return hash;
}

struct Golden {
  DType type;
  std::vector<size_t> halves;  // where a block's halves are; kept finite
  uint64_t hash;               // of what ggml's dequantize_row functions make of the same bytes
};

TEST_CASE("decoding gives what ggml gives, bit for bit") {
  const Golden cases[] = {{DType::kQ8_0, {0}, 0x2900057b8a7e73e3},
                          {DType::kQ4_0, {0}, 0x51ff2337ab808cc0},
                          {DType::kQ4_K, {0, 2}, 0x8b10dc6c961a599a},
                          {DType::kQ6_K, {208}, 0xc7b72279a1494a75},
                          {DType::kMXFP4, {}, 0xb1a8b579a16eff9e}};
  for (const Golden& golden : cases) {
    CAPTURE(name_of(golden.type));
    const Block block = block_of(golden.type);
    Dice dice(7);
    Bytes bytes(64 * block.bytes);
    for (std::byte& b : bytes) b = as_byte(static_cast<int>(dice.byte()));
    for (size_t at = 0; at < bytes.size(); at += block.bytes) {
      for (const size_t half : golden.halves) bytes[at + half + 1] &= as_byte(0xbf);
      if (golden.type == DType::kMXFP4) bytes[at] &= as_byte(0x7f);
    }
    auto numbers = decoded(golden.type, bytes);
    if (golden.type == DType::kMXFP4)
      for (float& x : numbers) x += 0.0f;  // ggml has no negative zero there
    CHECK(fnv(std::as_bytes(std::span(numbers))) == golden.hash);
  }
}

TEST_CASE("encoding gives what ggml's reference encoders give, byte for byte") {
  for (const auto& [type, hash] :
       {std::pair{DType::kQ8_0, 0x9939a533e051f14full}, std::pair{DType::kQ4_0, 0x8367008f9658412ull}}) {
    CAPTURE(name_of(type));
    Dice dice(11);
    std::vector<float> numbers(256 * 32);
    for (size_t i = 0; i < numbers.size(); ++i) {
      const auto high = static_cast<float>(dice.byte());  // the steps are coarse, so that ties happen
      numbers[i] =
          std::ldexp((high * 256 + static_cast<float>(dice.byte()) - 32768) / 4096, -static_cast<int>(i / 32 % 24));
    }
    Bytes bytes(bytes_of(type, numbers.size()));
    narrow(numbers, type, bytes);
    CHECK(fnv(bytes) == hash);
  }
}

TEST_CASE("an encoded number is at most half a step of Q8_0 or a step of Q4_0 away, and a block of zeros stays one") {
  Dice dice(12);
  for (const DType type : {DType::kQ8_0, DType::kQ4_0}) {
    std::vector<float> numbers(32 * 100), back(numbers.size());
    for (float& x : numbers) x = static_cast<float>(dice.below(20001)) / 10000 - 1;
    std::fill_n(numbers.begin(), 32, 0.0f);
    Bytes bytes(bytes_of(type, numbers.size()));
    narrow(numbers, type, bytes);
    widen({bytes.data(), type, 100, 32}, back);
    for (size_t i = 0; i < numbers.size(); ++i) {
      float most = 0;
      for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) most = std::max(most, std::fabs(numbers[j]));
      // In Q4_0 the other end of the range is one step short. The scale is a half: rounded by a 2048th.
      const float step = type == DType::kQ8_0 ? most / 127 / 2 : most / 8;
      CHECK(std::fabs(back[i] - numbers[i]) <= step + most / 2048 + 1e-7f);
    }
    CHECK(std::all_of(back.begin(), back.begin() + 32, [](float x) { return x == 0; }));
  }
}

TEST_CASE("narrow and widen: largest stays finite, and addresses may be odd") {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    CAPTURE(name_of(type));
    const float most = std::min(largest(type), 3e38f);
    std::vector<float> numbers(32, -most), back(32);
    Bytes bytes(bytes_of(type, 32) + 1);
    const std::span<std::byte> odd = std::span(bytes).subspan(1);
    narrow(numbers, type, odd);
    widen({odd.data(), type, 1, 32}, back);
    for (const float x : back) CHECK(x == doctest::Approx(-static_cast<double>(most)).epsilon(0.01));
    CHECK_THROWS_AS(narrow(numbers, type, bytes), base::Error);
  }
  std::vector<float> numbers(32);
  Bytes bytes(34);
  CHECK_THROWS_AS(narrow(std::span(numbers).first(8), DType::kI32, std::span(bytes).first(32)), base::Error);
  CHECK_THROWS_AS(widen({bytes.data(), DType::kU8, 1, 32}, numbers), base::Error);
  CHECK_THROWS_AS(decode_blocks(DType::kQ8_0, bytes.data(), std::span(numbers).first(31)), base::Error);
}

TEST_CASE("a row of a weight with blocks begins at its own block") {
  std::vector<float> numbers(3 * 64), back(64);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  Bytes bytes(bytes_of(DType::kQ8_0, numbers.size()));
  narrow(numbers, DType::kQ8_0, bytes);
  const Weight weight(bytes.data(), DType::kQ8_0, 3, 64);
  CHECK(weight.bytes() == 3 * 68);
  widen(weight.row(2), back);
  for (size_t i = 0; i < back.size(); ++i) CHECK(std::fabs(back[i] - numbers[128 + i]) < 1);
}

}  // namespace
}  // namespace choir::tensor
