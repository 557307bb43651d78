// Sixteen rows of a blocked weight, interleaved: what lies where in a packed panel.
//
// A unit is what one block of the file becomes, times sixteen rows. It begins with the codes of its parts, 32 numbers
// of each row: as bytes, vector g = 0..7 of 64 bytes holds the codes of rows l = 0..15 at the numbers 4g..4g+3, row
// after row. Codes of four bits lie in four vectors, those of g in the low half and those of g + 4 in the high half.
// The scales follow, those of sixteen rows side by side.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/byte_tile.h"
#include "kernels/vec.h"

namespace choir::kernels {

template <int W>  // the lanes of one register
struct Native {
  typedef float Floats __attribute__((vector_size(W * sizeof(float))));
  typedef int32_t Ints __attribute__((vector_size(W * sizeof(int32_t))));
  typedef uint16_t Halves __attribute__((vector_size(W * sizeof(uint16_t))));
  typedef uint8_t Bytes __attribute__((vector_size(W)));
};

template <class Vector>
CHOIR_INLINE Vector vector_at(const std::byte* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <int W>
CHOIR_INLINE typename Native<W>::Floats halves_at(const std::byte* from) {
  if constexpr (W == 16) {  // AVX-512 has a word for it, of which GCC 12 knows nothing in vectors
    typename Native<W>::Floats v;
    asm("vcvtph2ps %1, %0" : "=v"(v) : "m"(*reinterpret_cast<const std::byte(*)[32]>(from)));
    return v;
  }
  using Ints = typename Native<W>::Ints;
  const auto bits = __builtin_convertvector(vector_at<typename Native<W>::Halves>(from), Ints);
  return widen_half<typename Native<W>::Floats>(bits);
}

// Bytes of sixteen rows, four of each row side by side, then the next four: byte i of each row, without or with sign.
template <int W>
CHOIR_INLINE typename Native<W>::Ints byte_at(const std::byte* from, int i) {
  return vector_at<typename Native<W>::Ints>(from + i / 4 * 64) >> i % 4 * 8 & 255;
}
template <int W>
CHOIR_INLINE typename Native<W>::Ints signed_byte_at(const std::byte* from, int i) {
  return vector_at<typename Native<W>::Ints>(from + i / 4 * 64) << (24 - i % 4 * 8) >> 24;
}

template <int W>
CHOIR_INLINE typename Native<W>::Floats as_floats(typename Native<W>::Ints v) {
  using Floats = typename Native<W>::Floats;
  return __builtin_convertvector(v, Floats);
}

// Codes of four bits: vector g of the eight.
template <int W>
CHOIR_INLINE typename Native<W>::Ints nibbles_at(const std::byte* from, int g) {
  const auto pairs = vector_at<typename Native<W>::Ints>(from + g % 4 * 64);
  return (g < 4 ? pairs : pairs >> 4) & 0x0f0f0f0f;
}

// What the sums of a row's outputs from `col` on begin with, and where they go. Of a Tile with y, y_stride, cols, more.
template <class Floats, class Tile>
CHOIR_INLINE Floats begun(const Tile& tile, int row, int col) {
  constexpr int kWidth = sizeof(Floats) / sizeof(float);
  Floats v{};
  if (tile.more)
    std::memcpy(&v, tile.y + row * tile.y_stride + col,
                static_cast<size_t>(tile.cols - col < kWidth ? tile.cols - col : kWidth) * sizeof(float));
  return v;
}
template <class Floats, class Tile>
CHOIR_INLINE void put(const Tile& tile, int row, int col, Floats sums) {  // a copy: what has an address stays in memory
  constexpr int kWidth = sizeof(Floats) / sizeof(float);
  std::memcpy(tile.y + row * tile.y_stride + col, &sums,
              static_cast<size_t>(tile.cols - col < kWidth ? tile.cols - col : kWidth) * sizeof(float));
}

// Each format: what a unit is; kOffset, what the code of zero is; kHalves, scales to a part; and for rows lane..
// lane + W - 1 the codes of four numbers of part p in each 32-bit number, the scale and the minimum.

struct PackedQ8_0 {
  static constexpr int kBytes = 544, kParts = 1, kHalves = 1, kOffset = 128;
  static constexpr bool kMin = false;
  static constexpr int kScales = 512;  // where they begin

  template <int W>
  CHOIR_INLINE static auto codes(const std::byte* unit, int, int g, int lane) {
    return vector_at<typename Native<W>::Ints>(unit + g * 64 + lane * 4);
  }
  template <int W>
  CHOIR_INLINE static auto scale(const std::byte* unit, int, int, int lane) {
    return halves_at<W>(unit + kScales + lane * 2);
  }
};

struct PackedQ4_0 {
  static constexpr int kBytes = 288, kParts = 1, kHalves = 1, kOffset = 8;
  static constexpr bool kMin = false;
  static constexpr int kScales = 256;

  template <int W>
  CHOIR_INLINE static auto codes(const std::byte* unit, int, int g, int lane) {
    return nibbles_at<W>(unit + lane * 4, g);
  }
  template <int W>
  CHOIR_INLINE static auto scale(const std::byte* unit, int, int, int lane) {
    return halves_at<W>(unit + kScales + lane * 2);
  }
};

// Scales and minima of six bits stay in the twelve bytes of the file; behind them d and m of each row, side by side.
struct PackedQ4_K {
  static constexpr int kBytes = 2304, kParts = 8, kHalves = 1, kOffset = 0;
  static constexpr bool kMin = true;
  static constexpr int kSixBits = 2048, kScales = kSixBits + 12 * kPanelOutputs;

  template <int W>
  CHOIR_INLINE static auto codes(const std::byte* unit, int part, int g, int lane) {
    return nibbles_at<W>(unit + part * 256 + lane * 4, g);
  }
  template <int W>
  CHOIR_INLINE static auto scale(const std::byte* unit, int part, int, int lane) {
    const std::byte* six = unit + kSixBits + lane * 4;
    const auto s = part < 4 ? byte_at<W>(six, part) & 63
                            : (byte_at<W>(six, part + 4) & 15) | (byte_at<W>(six, part - 4) >> 6 << 4);
    return widen_half<typename Native<W>::Floats>(both<W>(unit, lane)) * as_floats<W>(s);
  }
  template <int W>
  CHOIR_INLINE static auto min(const std::byte* unit, int part, int lane) {
    const std::byte* six = unit + kSixBits + lane * 4;
    const auto m =
        part < 4 ? byte_at<W>(six, part + 4) & 63 : byte_at<W>(six, part + 4) >> 4 | (byte_at<W>(six, part) >> 6 << 4);
    return widen_half<typename Native<W>::Floats>(both<W>(unit, lane) >> 16) * as_floats<W>(m);
  }

 private:
  template <int W>
  CHOIR_INLINE static auto both(const std::byte* unit, int lane) {
    return vector_at<typename Native<W>::Ints>(unit + kScales + lane * 4);
  }
};

// The upper two bits of vector g are the bits 2 (g mod 4) of the bytes of vector g / 4 of two.
struct PackedQ6_K {
  static constexpr int kBytes = 3360, kParts = 8, kHalves = 2, kOffset = 32;
  static constexpr bool kMin = false;
  static constexpr int kUpper = 2048, kParted = 3072, kScales = kParted + 16 * kPanelOutputs;

  template <int W>
  CHOIR_INLINE static auto codes(const std::byte* unit, int part, int g, int lane) {
    const auto four = vector_at<typename Native<W>::Ints>(unit + kUpper + part * 128 + g / 4 * 64 + lane * 4);
    const auto upper = g % 4 < 2 ? four << (4 - g % 4 * 2) : four >> (g % 4 * 2 - 4);
    return nibbles_at<W>(unit + part * 256 + lane * 4, g) | (upper & 0x30303030);
  }
  template <int W>
  CHOIR_INLINE static auto scale(const std::byte* unit, int part, int half, int lane) {
    const auto s = signed_byte_at<W>(unit + kParted + lane * 4, part * 2 + half);
    return halves_at<W>(unit + kScales + lane * 2) * as_floats<W>(s);
  }
};

// Numbers of one sign, two exponent and one fraction bit, twice their size: 0 1 2 3 4 6 8 12 and the same below zero; a
// scale is a power of two, its exponent in one byte.
struct PackedMXFP4 {
  static constexpr int kBytes = 272, kParts = 1, kHalves = 1, kOffset = 16;
  static constexpr bool kMin = false;
  static constexpr int kScales = 256;

  template <int W>
  CHOIR_INLINE static auto codes(const std::byte* unit, int, int g, int lane) {
    const auto code = nibbles_at<W>(unit + lane * 4, g);
    if constexpr (W == 16) {  // one instruction looks all of them up
      alignas(64) static constexpr int8_t kNumbers[64] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4,
                                                          16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4,
                                                          16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4,
                                                          16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};
      auto number = code;
      asm("vpshufb %1, %2, %0"
          : "=v"(number)
          : "v"(code), "v"(vector_at<typename Native<W>::Ints>(reinterpret_cast<const std::byte*>(kNumbers))));
      return number;
    } else {
      return shifted_numbers(code);
    }
  }
  // 2^(e - 128), which is below the normal numbers for e of 0 and 1.
  template <int W>
  CHOIR_INLINE static auto scale(const std::byte* unit, int, int, int lane) {
    using Ints = typename Native<W>::Ints;
    const auto e = __builtin_convertvector(vector_at<typename Native<W>::Bytes>(unit + kScales + lane), Ints);
    const Ints twice = (e << 23) | ((e - 1) >> 31 & 0x00400000);
    return reinterpret_cast<typename Native<W>::Floats>(twice) * 0.5f;
  }

 private:
  // The same in every byte by arithmetic: of the magnitude's code m, with l = m mod 4 where m > 3 and else 0, it is
  // m + l, and two more for l = 3.
  template <class Ints>
  CHOIR_INLINE static Ints shifted_numbers(Ints code) {
    const Ints m = code & 0x07070707, above = m >> 2 & 0x01010101, l = m & (above | above << 1);
    const Ints magnitude = m + l + ((l & l >> 1 & 0x01010101) << 1);
    const Ints sign = code >> 3 & 0x01010101, below = (sign << 8) - sign;  // all bits of a byte that is negative
    return magnitude + 0x10101010 - ((magnitude & below) << 1);
  }
};

// function(std::type_identity<Format>{}); false where the type is none of these.
template <class Function>
bool with_packed_format(tensor::DType type, const Function& function) {
  switch (type) {
    case tensor::DType::kQ8_0: return function(std::type_identity<PackedQ8_0>{}), true;
    case tensor::DType::kQ4_0: return function(std::type_identity<PackedQ4_0>{}), true;
    case tensor::DType::kQ4_K: return function(std::type_identity<PackedQ4_K>{}), true;
    case tensor::DType::kQ6_K: return function(std::type_identity<PackedQ6_K>{}), true;
    case tensor::DType::kMXFP4: return function(std::type_identity<PackedMXFP4>{}), true;
    default: return false;
  }
}

}  // namespace choir::kernels
