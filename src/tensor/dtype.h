// The number formats of tensors on disk and in memory, and their conversion to float.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace choir::tensor {

enum class DType : uint8_t {
  // One number at a time, the formats of safetensors.
  kF32,
  kF16,
  kBF16,
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kF8E4M3,
  // Blocks of numbers that share a scale, the formats of GGUF (blocks.h).
  kQ8_0,
  kQ4_0,
  kQ4_K,
  kQ6_K,
  kMXFP4,
};

// What a format stores together: one number, or the numbers of a block.
struct Block {
  size_t numbers, bytes;
};

Block block_of(DType type);
bool is_blocked(DType type);                  // several numbers to a block
size_t size_of(DType type);                   // bytes of one number; CHECKs that the type has no blocks
size_t bytes_of(DType type, size_t numbers);  // CHECKs that the numbers are whole blocks
std::string_view name_of(DType type);         // as safetensors and ggml spell it: "F32", "BF16", "Q8_0", ...
std::optional<DType> dtype_named(std::string_view name);  // of safetensors alone: no blocks

// bfloat16 is the upper half of a float. Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
struct BF16 {
  uint16_t bits;

  static BF16 from(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>((u >> 16) | 0x40)};
    return {static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

// IEEE 754 half precision.
struct F16 {
  uint16_t bits;

  static F16 from(float value);
  explicit operator float() const;
};

// Eight bits, of them four of exponent and three of fraction (OCP 8-bit floating point, E4M3): no infinities, and
// largest 448; all ones but the sign is the NaN.
struct F8E4M3 {
  uint8_t bits;

  explicit operator float() const;
};

}  // namespace choir::tensor
