#include "tensor/dtype.h"

#include <array>
#include <cmath>

namespace choir::tensor {
namespace {

struct Format {
  DType type;
  std::string_view name;
  size_t bytes;
};

constexpr std::array kFormats{Format{DType::kF32, "F32", 4},   Format{DType::kF16, "F16", 2},
                              Format{DType::kBF16, "BF16", 2}, Format{DType::kF64, "F64", 8},
                              Format{DType::kI64, "I64", 8},   Format{DType::kI32, "I32", 4},
                              Format{DType::kI16, "I16", 2},   Format{DType::kI8, "I8", 1},
                              Format{DType::kU8, "U8", 1},     Format{DType::kBool, "BOOL", 1}};

}  // namespace

size_t size_of(DType type) { return kFormats[static_cast<size_t>(type)].bytes; }

std::string_view name_of(DType type) { return kFormats[static_cast<size_t>(type)].name; }

std::optional<DType> dtype_named(std::string_view name) {
  for (const Format& f : kFormats)
    if (f.name == name) return f.type;
  return std::nullopt;
}

// Scales by exact powers of two so that the rounding of one float addition is the rounding to half precision.
F16 F16::from(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  const uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // rounds to 65536 or more: infinity
  if (magnitude < 0x38800000) {  // below 2^-14: subnormal, in steps of 2^-24; adding 0.5 lets the float unit round
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000))};
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13))};
}

F16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  const uint32_t wide = exponent == 31 ? 0xff : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

}  // namespace choir::tensor
