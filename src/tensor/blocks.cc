#include "tensor/blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "base/error.h"

namespace choir::tensor {
namespace {

int low(std::byte b) { return std::to_integer<int>(b) & 0xf; }
int high(std::byte b) { return std::to_integer<int>(b) >> 4; }
std::byte pair(int low, int high) { return static_cast<std::byte>(low | (high << 4)); }
int whole(std::byte b) { return static_cast<int8_t>(b); }
int bits(std::byte b, int first, int count) { return (std::to_integer<int>(b) >> first) & ((1 << count) - 1); }

float half_at(const std::byte* from) {
  F16 half;
  std::memcpy(&half, from, sizeof half);
  return static_cast<float>(half);
}

void put_half(float value, std::byte* to) {
  const F16 half = F16::from(value);
  std::memcpy(to, &half, sizeof half);
}

// In all of these the products are exact: a half has 11 bits, and the whole numbers beside it 12 at most.

// x_i = d q_i:  d a half, q 32 bytes with a sign.
void decode_q8_0(const std::byte* from, float* to) {
  const float d = half_at(from);
  for (int i = 0; i < 32; ++i) to[i] = d * static_cast<float>(whole(from[2 + i]));
}

// x_i = d (q_i - 8):  d a half, then 16 bytes with q_i low and q_(i+16) high.
void decode_q4_0(const std::byte* from, float* to) {
  const float d = half_at(from);
  for (int i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>(low(from[2 + i]) - 8);
    to[i + 16] = d * static_cast<float>(high(from[2 + i]) - 8);
  }
}

struct ScaleMin {
  int scale, min;
};

// Eight scales and eight minima of six bits in twelve bytes. Those of the first four parts lie in the low six bits of
// bytes 0-3 and 4-7; of the others, the low four bits are in bytes 8-11 and the high two above the first eight.
ScaleMin scale_min(const std::byte* packed, int part) {
  if (part < 4) return {bits(packed[part], 0, 6), bits(packed[part + 4], 0, 6)};
  const std::byte nibbles = packed[part + 4];
  return {low(nibbles) | (bits(packed[part - 4], 6, 2) << 4), high(nibbles) | (bits(packed[part], 6, 2) << 4)};
}

// x = d s_p q - m t_p in eight parts p of 32 numbers:  d, m halves, s and t as above, then 32 bytes for each two parts,
// the first of them low.
void decode_q4_k(const std::byte* from, float* to) {
  const float d = half_at(from), m = half_at(from + 2);
  for (int part = 0; part < 8; ++part) {
    const ScaleMin s = scale_min(from + 4, part);
    const float scale = d * static_cast<float>(s.scale), min = m * static_cast<float>(s.min);
    const std::byte* q = from + 16 + part / 2 * 32;
    for (int i = 0; i < 32; ++i) to[part * 32 + i] = scale * static_cast<float>(bits(q[i], part % 2 * 4, 4)) - min;
  }
}

// x = d s_p (q - 32) in sixteen parts p of 16 numbers:  low four bits of q in 128 bytes, high two in 64, s 16 bytes
// with a sign, d a half. Each half of the block has four quarters of 32 numbers: quarters 0 and 1 are low in its 64
// bytes, 2 and 3 high, and quarter k has the bits 2k, 2k + 1 of its 32 bytes of high bits.
void decode_q6_k(const std::byte* from, float* to) {
  const float d = half_at(from + 208);
  for (int quarter = 0; quarter < 8; ++quarter) {
    const int half = quarter / 4, k = quarter % 4;
    const std::byte* nibbles = from + half * 64 + k % 2 * 32;
    const std::byte* above = from + 128 + half * 32;
    for (int i = 0; i < 32; ++i) {
      const int q = bits(nibbles[i], k / 2 * 4, 4) | (bits(above[i], 2 * k, 2) << 4);
      const float scale = d * static_cast<float>(whole(from[192 + quarter * 2 + i / 16]));
      to[quarter * 32 + i] = scale * static_cast<float>(q - 32);
    }
  }
}

// OCP Microscaling, MXFP4: x = 2^(e - 127) times a number of one sign, two exponent and one fraction bit; e = 255 is
// NaN.
constexpr std::array<float, 16> kE2M1{0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

void decode_mxfp4(const std::byte* from, float* to) {
  const int e = std::to_integer<int>(from[0]);
  const float scale = e == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, e - 127);
  for (int i = 0; i < 16; ++i) {
    to[i] = scale * kE2M1[static_cast<size_t>(low(from[1 + i]))];
    to[i + 16] = scale * kE2M1[static_cast<size_t>(high(from[1 + i]))];
  }
}

// d = max |x| / 127, q = x / d rounded to the nearest, ties away from zero.
void encode_q8_0(const float* from, std::byte* to) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::max(most, std::fabs(from[i]));
  const float d = most / 127, inverse = d != 0 ? 1 / d : 0;
  put_half(d, to);
  for (int i = 0; i < 32; ++i) to[2 + i] = static_cast<std::byte>(static_cast<int>(std::round(from[i] * inverse)));
}

// d = x* / -8 for the x* of largest magnitude, the first of them, so that x* itself becomes q = 0;  q = x / d + 8.5 cut
// down. The product is rounded to float before the sum, also where the machine could fuse the two.
void encode_q4_0(const float* from, std::byte* to) {
  const float most = *std::max_element(from, from + 32, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const float d = most / -8, inverse = d != 0 ? 1 / d : 0;
  put_half(d, to);
  const auto quantum = [&](float x) {
    const auto product = static_cast<float>(static_cast<double>(x) * static_cast<double>(inverse));
    return std::min(15, static_cast<int>(product + 8.5f));
  };
  for (int i = 0; i < 16; ++i) to[2 + i] = pair(quantum(from[i]), quantum(from[i + 16]));
}

template <class Decode>
void each_block(Block block, const std::byte* from, std::span<float> to, Decode decode) {
  for (size_t i = 0; i < to.size(); i += block.numbers, from += block.bytes) decode(from, to.data() + i);
}

[[noreturn]] void refuse(DType type) {
  base::check_failed("a block format", std::string(name_of(type)), __FILE__, __LINE__);
}

void check_mxfp4(size_t joined, size_t nibbles, size_t scales) {
  CHOIR_CHECK(nibbles == 16 * scales && joined == 17 * scales, std::to_string(nibbles) + " bytes of numbers");
}

}  // namespace

void decode_blocks(DType type, const std::byte* from, std::span<float> numbers) {
  const Block block = block_of(type);
  CHOIR_CHECK(numbers.size() % block.numbers == 0, std::to_string(numbers.size()) + " numbers");
  switch (type) {
    case DType::kQ8_0: return each_block(block, from, numbers, decode_q8_0);
    case DType::kQ4_0: return each_block(block, from, numbers, decode_q4_0);
    case DType::kQ4_K: return each_block(block, from, numbers, decode_q4_k);
    case DType::kQ6_K: return each_block(block, from, numbers, decode_q6_k);
    case DType::kMXFP4: return each_block(block, from, numbers, decode_mxfp4);
    default: refuse(type);
  }
}

void encode_blocks(std::span<const float> numbers, DType type, std::byte* to) {
  const Block block = block_of(type);
  CHOIR_CHECK(numbers.size() % block.numbers == 0, std::to_string(numbers.size()) + " numbers");
  if (type != DType::kQ8_0 && type != DType::kQ4_0) refuse(type);
  const auto encode = type == DType::kQ8_0 ? encode_q8_0 : encode_q4_0;
  for (size_t i = 0; i < numbers.size(); i += block.numbers, to += block.bytes) encode(numbers.data() + i, to);
}

void join_mxfp4(std::span<const std::byte> nibbles, std::span<const std::byte> scales, std::span<std::byte> to) {
  check_mxfp4(to.size(), nibbles.size(), scales.size());
  for (size_t block = 0; block < scales.size(); ++block) {
    const auto from = nibbles.subspan(16 * block, 16);
    const auto number = [&](size_t i) { return i % 2 == 0 ? low(from[i / 2]) : high(from[i / 2]); };
    to[17 * block] = scales[block];
    for (size_t j = 0; j < 16; ++j) to[17 * block + 1 + j] = pair(number(j), number(j + 16));
  }
}

void split_mxfp4(std::span<const std::byte> blocks, std::span<std::byte> nibbles, std::span<std::byte> scales) {
  check_mxfp4(blocks.size(), nibbles.size(), scales.size());
  for (size_t block = 0; block < scales.size(); ++block) {
    const auto from = blocks.subspan(17 * block + 1, 16);
    const auto number = [&](size_t i) { return i < 16 ? low(from[i]) : high(from[i - 16]); };
    scales[block] = blocks[17 * block];
    for (size_t j = 0; j < 16; ++j) nibbles[16 * block + j] = pair(number(2 * j), number(2 * j + 1));
  }
}

}  // namespace choir::tensor
