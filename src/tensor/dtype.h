// The number formats of tensors on disk and in memory, and their conversion to float.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace choir::tensor {

enum class DType : uint8_t { kF32, kF16, kBF16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

size_t size_of(DType type);            // bytes of one element
std::string_view name_of(DType type);  // as safetensors spells it: "F32", "BF16", ...
std::optional<DType> dtype_named(std::string_view name);

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

}  // namespace choir::tensor
