// Rows of weights in every format that products read, sixteen numbers at a time; above all those with blocks
// (tensor/blocks.h).
#pragma once

#include <bit>
#include <cstddef>
#include <limits>
#include <type_traits>

#include "kernels/lanes.h"

namespace choir::kernels {

// A block of each format as a unit that pointers count.
struct BlockQ8_0 {
  static constexpr int kNumbers = 32;
  std::byte bytes[34];
};
struct BlockQ4_0 {
  static constexpr int kNumbers = 32;
  std::byte bytes[18];
};
struct BlockQ4_K {
  static constexpr int kNumbers = 256;
  std::byte bytes[144];
};
struct BlockQ6_K {
  static constexpr int kNumbers = 256;
  std::byte bytes[210];
};
struct BlockMXFP4 {
  static constexpr int kNumbers = 32;
  std::byte bytes[17];
};

template <class Type>
concept Blocked = requires {
  Type::kNumbers;
};

typedef int8_t ByteVec __attribute__((vector_size(16)));
typedef uint8_t NibbleVec __attribute__((vector_size(16)));

CHOIR_INLINE float half_at(const std::byte* from) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  const uint32_t special = (bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  const float value = std::bit_cast<float>(static_cast<uint32_t>(bits & 0x7fff) << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | special | static_cast<uint32_t>(bits & 0x8000) << 16);
}

CHOIR_INLINE NibbleVec bytes_at(const std::byte* from) {
  NibbleVec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

CHOIR_INLINE Vec as_floats(IntVec v) { return __builtin_convertvector(v, Vec); }
CHOIR_INLINE IntVec as_ints(NibbleVec v) { return __builtin_convertvector(v, IntVec); }

// Numbers k to k + 15 of a row of blocks, k a multiple of 16: exactly those of tensor::widen, but for the sign of a
// zero.
CHOIR_INLINE Vec numbers(const BlockQ8_0* row, int k) {
  const std::byte* block = row[k / 32].bytes;
  const auto q = reinterpret_cast<ByteVec>(bytes_at(block + 2 + k % 32));
  return half_at(block) * as_floats(__builtin_convertvector(q, IntVec));
}

CHOIR_INLINE Vec numbers(const BlockQ4_0* row, int k) {
  const std::byte* block = row[k / 32].bytes;
  const NibbleVec pairs = bytes_at(block + 2), q = k % 32 == 0 ? pairs & 15 : pairs >> 4;
  return half_at(block) * as_floats(as_ints(q) - 8);
}

CHOIR_INLINE int six_bits(const std::byte* scales, int part, bool min) {
  const auto at = [&](int i) { return std::to_integer<int>(scales[i]); };
  const int low = part + (min ? 4 : 0);
  if (part < 4) return at(low) & 63;
  return (min ? at(part + 4) >> 4 : at(part + 4) & 15) | ((at(min ? part : part - 4) >> 6) << 4);
}

CHOIR_INLINE Vec numbers(const BlockQ4_K* row, int k) {
  const std::byte* block = row[k / 256].bytes;
  const int i = k % 256, part = i / 32;
  const float scale = half_at(block) * static_cast<float>(six_bits(block + 4, part, false));
  const float min = half_at(block + 2) * static_cast<float>(six_bits(block + 4, part, true));
  const NibbleVec pairs = bytes_at(block + 16 + part / 2 * 32 + i % 32);
  return scale * as_floats(as_ints(part % 2 == 0 ? pairs & 15 : pairs >> 4)) - min;
}

CHOIR_INLINE Vec numbers(const BlockQ6_K* row, int k) {
  const std::byte* block = row[k / 256].bytes;
  const int i = k % 256, half = i / 128, quarter = i / 32 % 4, within = i % 32;
  const NibbleVec pairs = bytes_at(block + half * 64 + quarter % 2 * 32 + within);
  const IntVec low = as_ints(quarter < 2 ? pairs & 15 : pairs >> 4);
  const IntVec high = (as_ints(bytes_at(block + 128 + half * 32 + within)) >> (2 * quarter)) & 3;
  const auto scale = static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
  return half_at(block + 208) * scale * as_floats((low | high << 4) - 32);
}

// Twice the numbers of four bits are whole, so the scale is halved: 2^(e - 128).
CHOIR_INLINE Vec numbers(const BlockMXFP4* row, int k) {
  const std::byte* block = row[k / 32].bytes;
  const auto e = std::to_integer<uint32_t>(block[0]);
  const float scale = e == 255 ? std::numeric_limits<float>::quiet_NaN()
                               : std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  const NibbleVec pairs = bytes_at(block + 1), code = k % 32 == 0 ? pairs & 15 : pairs >> 4;
  const ByteVec doubled{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const ByteVec q = __builtin_shuffle(doubled, reinterpret_cast<ByteVec>(code));
  return scale * as_floats(__builtin_convertvector(q, IntVec));
}

// Numbers k to k + 15 of a row of any format.
template <int W, class Type>
CHOIR_INLINE Lanes<W> row_lanes(const Type* row, int k) {
  if constexpr (Blocked<Type>)
    return lanes<W>(numbers(row, k));
  else
    return load_lanes<W>(row + k);
}

// The same where only `left` < 16 numbers remain from k on; the others are zero. Rows of blocks have no such end.
template <int W, class Type>
CHOIR_INLINE Lanes<W> row_lanes_part(const Type* row, int k, int left) {
  if constexpr (Blocked<Type>)
    return {};
  else
    return lanes<W>(load_part(row + k, left));
}

// How long a row of so many numbers is in units of its type.
template <class Type>
constexpr ptrdiff_t units_of(ptrdiff_t numbers) {
  if constexpr (Blocked<Type>)
    return numbers / Type::kNumbers;
  else
    return numbers;
}

// function(std::type_identity<Type>{}) with what products read a weight of this type as; false where they read none.
template <class Function>
bool with_type(tensor::DType type, const Function& function) {
  switch (type) {
    case tensor::DType::kF32: return function(std::type_identity<float>{}), true;
    case tensor::DType::kBF16: return function(std::type_identity<tensor::BF16>{}), true;
    case tensor::DType::kF16: return function(std::type_identity<tensor::F16>{}), true;
    case tensor::DType::kQ8_0: return function(std::type_identity<BlockQ8_0>{}), true;
    case tensor::DType::kQ4_0: return function(std::type_identity<BlockQ4_0>{}), true;
    case tensor::DType::kQ4_K: return function(std::type_identity<BlockQ4_K>{}), true;
    case tensor::DType::kQ6_K: return function(std::type_identity<BlockQ6_K>{}), true;
    case tensor::DType::kMXFP4: return function(std::type_identity<BlockMXFP4>{}), true;
    default: return false;
  }
}

}  // namespace choir::kernels
