#include "tensor/dtype.h"

#include <array>
#include <cmath>
#include <string>

#include "base/error.h"

namespace choir::tensor {
namespace {

struct Format {
  DType type;
  std::string_view name;
  Block block;
};

// In the order of DType. The blocks are those of ggml, src/ggml-common.h.
constexpr std::array kFormats{Format{DType::kF32, "F32", {1, 4}},        Format{DType::kF16, "F16", {1, 2}},
                              Format{DType::kBF16, "BF16", {1, 2}},      Format{DType::kF64, "F64", {1, 8}},
                              Format{DType::kI64, "I64", {1, 8}},        Format{DType::kI32, "I32", {1, 4}},
                              Format{DType::kI16, "I16", {1, 2}},        Format{DType::kI8, "I8", {1, 1}},
                              Format{DType::kU8, "U8", {1, 1}},          Format{DType::kBool, "BOOL", {1, 1}},
                              Format{DType::kF8E4M3, "F8_E4M3", {1, 1}}, Format{DType::kQ8_0, "Q8_0", {32, 34}},
                              Format{DType::kQ4_0, "Q4_0", {32, 18}},    Format{DType::kQ4_K, "Q4_K", {256, 144}},
                              Format{DType::kQ6_K, "Q6_K", {256, 210}},  Format{DType::kMXFP4, "MXFP4", {32, 17}}};

}  // namespace

Block block_of(DType type) { return kFormats[static_cast<size_t>(type)].block; }

bool is_blocked(DType type) { return block_of(type).numbers > 1; }

size_t size_of(DType type) {
  CHOIR_CHECK(!is_blocked(type), std::string(name_of(type)) + " has no size of one number");
  return block_of(type).bytes;
}

size_t bytes_of(DType type, size_t numbers) {
  const Block block = block_of(type);
  CHOIR_CHECK(numbers % block.numbers == 0, std::to_string(numbers) + " numbers of " + std::string(name_of(type)));
  return numbers / block.numbers * block.bytes;
}

std::string_view name_of(DType type) { return kFormats[static_cast<size_t>(type)].name; }

std::optional<DType> dtype_named(std::string_view name) {
  for (const Format& f : kFormats)
    if (f.name == name && f.block.numbers == 1) return f.type;
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

F8E4M3::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
  const uint32_t exponent = (bits >> 3) & 0xf, fraction = bits & 0x7;
  if ((bits & 0x7f) == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000);
  if (exponent == 0) {  // subnormal, in steps of 2^-9
    const float value = static_cast<float>(fraction) * 0x1p-9f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (fraction << 20));  // 120 = 127 - 7, the biases
}

}  // namespace choir::tensor
