// Packed weights taken apart again: the moves of packed_weight.cc, backwards.
#include <algorithm>
#include <cstring>
#include <string>

#include "base/error.h"
#include "kernels/number_tile.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

uint32_t word(const std::byte* codes, int vector, int row) {
  uint32_t w;
  std::memcpy(&w, codes + vector * 64 + row * 4, sizeof w);
  return w;
}
void put_word(std::byte* to, int i, uint32_t w) { std::memcpy(to + 4 * i, &w, sizeof w); }

constexpr uint32_t kLow = 0x0f0f0f0f;

// Codes of four bits of vector g of the eight: the low halves, of g + 4 the high ones.
uint32_t nibbles(const std::byte* codes, int g, int row) {
  const uint32_t w = word(codes, g % 4, row);
  return (g < 4 ? w : w >> 4) & kLow;
}

void take_half(const std::byte* scales, int row, std::byte* half) { std::memcpy(half, scales + row * 2, 2); }

void take_bytes(const std::byte* from, int row, std::span<std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 4) std::memcpy(&bytes[i], from + i * kPanelOutputs + row * 4, 4);
}

// Each of these reads row l of a unit into a block of the file.
void take_row(PackedQ8_0, const std::byte* unit, int row, std::byte* block) {
  for (int g = 0; g < 8; ++g) put_word(block + 2, g, word(unit, g, row) ^ 0x80808080);
  take_half(unit + PackedQ8_0::kScales, row, block);
}

void take_row(PackedQ4_0, const std::byte* unit, int row, std::byte* block) {
  for (int g = 0; g < 4; ++g) put_word(block + 2, g, word(unit, g, row));
  take_half(unit + PackedQ4_0::kScales, row, block);
}

void take_row(PackedMXFP4, const std::byte* unit, int row, std::byte* block) {
  for (int g = 0; g < 4; ++g) put_word(block + 1, g, word(unit, g, row));
  block[0] = unit[PackedMXFP4::kScales + row];
}

// Two parts lie in the halves of the same bytes.
void take_row(PackedQ4_K, const std::byte* unit, int row, std::byte* block) {
  for (int part = 0; part < PackedQ4_K::kParts; part += 2)
    for (int g = 0; g < 8; ++g)
      put_word(block + 16 + part / 2 * 32, g,
               nibbles(unit + part * 256, g, row) | nibbles(unit + (part + 1) * 256, g, row) << 4);
  take_bytes(unit + PackedQ4_K::kSixBits, row, {block + 4, 12});
  take_bytes(unit + PackedQ4_K::kScales, row, {block, 4});
}

// Quarters 0 and 2, and 1 and 3, of each half lie in the halves of the same bytes; the upper bits of all four together.
void take_row(PackedQ6_K, const std::byte* unit, int row, std::byte* block) {
  for (int half = 0; half < 2; ++half) {
    const int first = half * 4;
    for (int pair = 0; pair < 2; ++pair)
      for (int g = 0; g < 8; ++g)
        put_word(block + half * 64 + pair * 32, g,
                 nibbles(unit + (first + pair) * 256, g, row) | nibbles(unit + (first + pair + 2) * 256, g, row) << 4);
    for (int g = 0; g < 8; ++g) {
      uint32_t upper = 0;
      for (int quarter = 0; quarter < 4; ++quarter)
        upper |= (word(unit + PackedQ6_K::kUpper + (first + quarter) * 128, g / 4, row) >> 2 * (g % 4) & 0x03030303)
                 << 2 * quarter;
      put_word(block + 128 + half * 32, g, upper);
    }
  }
  take_bytes(unit + PackedQ6_K::kParted, row, {block + 192, 16});
  take_half(unit + PackedQ6_K::kScales, row, block + 208);
}

// The rows of one panel, each `step` bytes behind the one before.
void unpack_blocks(const Weight& w, const std::byte* panel, int rows, std::byte* to, size_t step) {
  const tensor::Block block = tensor::block_of(w.type);
  with_packed_format(w.type, [&]<class Format>(std::type_identity<Format>) {
    for (size_t b = 0; b < step / block.bytes; ++b, panel += Format::kBytes)
      for (int l = 0; l < rows; ++l) take_row(Format{}, panel, l, to + static_cast<size_t>(l) * step + b * block.bytes);
  });
}

void unpack_numbers(const std::byte* panel, int rows, std::byte* to, size_t step) {
  for (size_t at = 0; at < step; at += kWordBytes)
    for (int l = 0; l < rows; ++l)
      std::memcpy(to + static_cast<size_t>(l) * step + at, panel + at * kPanelOutputs + l * kWordBytes,
                  std::min<size_t>(kWordBytes, step - at));
}

}  // namespace

void unpack(const Weight& packed, std::byte* to) {
  CHOIR_CHECK(packed.layout == tensor::Layout::kPanels, "a weight of " + std::to_string(packed.rows) + " rows in rows");
  const size_t step = tensor::bytes_of(packed.type, static_cast<size_t>(packed.cols));
  const auto* panel = static_cast<const std::byte*>(packed.data);
  for (int row = 0; row < packed.rows; row += kPanelOutputs) {
    const int rows = std::min(kPanelOutputs, packed.rows - row);
    if (wants_blocks(packed.type))
      unpack_blocks(packed, panel, rows, to, step);
    else
      unpack_numbers(panel, rows, to, step);
    panel += packed_bytes(packed.type, kPanelOutputs, packed.cols);
    to += static_cast<size_t>(kPanelOutputs) * step;
  }
}

}  // namespace choir::kernels
