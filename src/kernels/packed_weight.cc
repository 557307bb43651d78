// The order of packed weights: the bytes of a file, moved.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
#include "kernels/lane_tile.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

using tensor::DType;

// The blocks of sixteen rows that become one unit, those past the weight's last row null.
using Blocks = std::array<const std::byte*, kPanelOutputs>;

uint8_t byte(const std::byte* from, int i) { return std::to_integer<uint8_t>(from[i]); }
int nibble(const std::byte* from, int i, bool high) { return high ? byte(from, i) >> 4 : byte(from, i) & 15; }

// Number k of a part goes to vector k / 4; there row l has four bytes.
std::byte* place(std::byte* codes, int vector, int row, int k) { return codes + vector * 64 + row * 4 + k % 4; }

void put_nibble(std::byte* codes, int row, int k, int code) {
  const int vector = k / 4;
  *place(codes, vector % 4, row, k) |= static_cast<std::byte>(vector < 4 ? code : code << 4);
}

// One scale of two bytes for each row.
void put_half(std::byte* scales, int row, const std::byte* half) { std::memcpy(scales + row * 2, half, 2); }

// Four bytes of each row side by side, then the next four.
void put_bytes(std::byte* to, int row, std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 4) std::memcpy(to + i * kPanelOutputs + row * 4, &bytes[i], 4);
}

// Each of these adds row l, a block of the file (tensor/blocks.cc), to a unit that was zero.
void add_row(PackedQ8_0, const std::byte* block, int row, std::byte* unit) {
  for (int k = 0; k < 32; ++k) *place(unit, k / 4, row, k) = block[2 + k] ^ std::byte{0x80};
  put_half(unit + PackedQ8_0::kScales, row, block);
}

void add_row(PackedQ4_0, const std::byte* block, int row, std::byte* unit) {
  for (int k = 0; k < 32; ++k) put_nibble(unit, row, k, nibble(block, 2 + k % 16, k >= 16));
  put_half(unit + PackedQ4_0::kScales, row, block);
}

void add_row(PackedQ4_K, const std::byte* block, int row, std::byte* unit) {
  for (int part = 0; part < PackedQ4_K::kParts; ++part)
    for (int k = 0; k < 32; ++k)
      put_nibble(unit + part * 256, row, k, nibble(block, 16 + part / 2 * 32 + k, part % 2 == 1));
  put_bytes(unit + PackedQ4_K::kSixBits, row, {block + 4, 12});
  put_bytes(unit + PackedQ4_K::kScales, row, {block, 4});
}

void add_row(PackedQ6_K, const std::byte* block, int row, std::byte* unit) {
  for (int part = 0; part < PackedQ6_K::kParts; ++part)
    for (int k = 0; k < 32; ++k) {
      const int half = part / 4, quarter = part % 4, g = k / 4;
      put_nibble(unit + part * 256, row, k, nibble(block, half * 64 + quarter % 2 * 32 + k, quarter >= 2));
      const int upper = byte(block, 128 + half * 32 + k) >> 2 * quarter & 3;
      *place(unit + PackedQ6_K::kUpper + part * 128, g / 4, row, k) |= static_cast<std::byte>(upper << g % 4 * 2);
    }
  put_bytes(unit + PackedQ6_K::kParted, row, {block + 192, 16});
  put_half(unit + PackedQ6_K::kScales, row, block + 208);
}

// The rows from `first` on, one panel.
void pack_blocks(const Weight& w, int first, std::byte* to) {
  const tensor::Block block = tensor::block_of(w.type);
  const size_t row_bytes = tensor::bytes_of(w.type, static_cast<size_t>(w.cols));
  with_packed_format(w.type, [&]<class Format>(std::type_identity<Format>) {
    for (size_t at = 0; at < row_bytes; at += block.bytes, to += Format::kBytes) {
      std::memset(to, 0, Format::kBytes);
      for (int l = 0; l < std::min(kPanelOutputs, w.rows - first); ++l)
        add_row(Format{}, static_cast<const std::byte*>(w.row(first + l).data) + at, l, to);
    }
  });
}

void pack_numbers(const Weight& w, int first, std::byte* to) {
  const size_t number = tensor::size_of(w.type);
  const int step = unit_numbers(number);
  for (int begin = 0; begin < w.cols; begin += step)
    for (int l = 0; l < kLanePanel; ++l, to += kLaneUnit) {
      std::memset(to, 0, kLaneUnit);
      if (first + l >= w.rows) continue;
      const std::byte* row = static_cast<const std::byte*>(w.row(first + l).data);
      for (int k = begin; k < std::min(w.cols, begin + step); ++k)
        std::memcpy(to + place_in_unit(k - begin, number) * number, row + k * number, number);
    }
}

int round_up(int size, int step) { return (size + step - 1) / step * step; }

}  // namespace

bool can_pack(DType type) { return byte_tile_for(type) || lane_tile_for(type); }

bool wants_blocks(DType type) {
  CHOIR_CHECK(can_pack(type), std::string(tensor::name_of(type)));
  return byte_tile_for(type);
}

int panel_rows(DType type) { return wants_blocks(type) ? kPanelOutputs : kLanePanel; }

size_t packed_bytes(DType type, int rows, int cols) {
  const int wide = wants_blocks(type) ? cols : round_up(cols, unit_numbers(tensor::size_of(type)));
  return static_cast<size_t>(round_up(rows, panel_rows(type))) * tensor::bytes_of(type, static_cast<size_t>(wide));
}

PackedWeight pack(const Weight& weight, std::span<std::byte> to, Threads& threads) {
  CHOIR_CHECK(to.size() == packed_bytes(weight.type, weight.rows, weight.cols), std::to_string(to.size()) + " bytes");
  const int step = panel_rows(weight.type), panels = round_up(weight.rows, step) / step;
  const size_t panel_bytes = packed_bytes(weight.type, step, weight.cols);
  threads.for_each(panels, [&](int panel) {
    std::byte* place = to.data() + static_cast<size_t>(panel) * panel_bytes;
    (wants_blocks(weight.type) ? pack_blocks : pack_numbers)(weight, panel * step, place);
  });
  return {to.data(), weight.type, weight.rows, weight.cols};
}

}  // namespace choir::kernels
