// The order of packed weights: the bytes of a file, moved.
#include <algorithm>
#include <cstring>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
#include "kernels/number_tile.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

using tensor::DType;

// Codes move four at a time, as one number: number k of a part goes to vector k / 4, where row l has four bytes.
uint32_t word(const std::byte* from, int i) {
  uint32_t w;
  std::memcpy(&w, from + 4 * i, sizeof w);
  return w;
}
void put_word(std::byte* codes, int vector, int row, uint32_t w) {
  std::memcpy(codes + vector * 64 + row * 4, &w, sizeof w);
}

constexpr uint32_t kLow = 0x0f0f0f0f;

// The eight words of a part's codes of four bits: vector g in the low halves, g + 4 in the high ones.
template <class Codes>
void put_nibbles(std::byte* to, int row, const Codes& codes) {
  for (int g = 0; g < 4; ++g) put_word(to, g, row, codes(g) | codes(g + 4) << 4);
}

// One scale of two bytes for each row.
void put_half(std::byte* scales, int row, const std::byte* half) { std::memcpy(scales + row * 2, half, 2); }

// Four bytes of each row side by side, then the next four.
void put_bytes(std::byte* to, int row, std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 4) std::memcpy(to + i * kPanelOutputs + row * 4, &bytes[i], 4);
}

// Each of these writes row l, a block of the file (tensor/blocks.cc), into a unit.
void put_row(PackedQ8_0, const std::byte* block, int row, std::byte* unit) {
  for (int g = 0; g < 8; ++g) put_word(unit, g, row, word(block + 2, g) ^ 0x80808080);
  put_half(unit + PackedQ8_0::kScales, row, block);
}

// A byte of the file has the number k below 16 in its low half and k + 16 in the high one, as the unit has.
void put_row(PackedQ4_0, const std::byte* block, int row, std::byte* unit) {
  for (int g = 0; g < 4; ++g) put_word(unit, g, row, word(block + 2, g));
  put_half(unit + PackedQ4_0::kScales, row, block);
}

void put_row(PackedMXFP4, const std::byte* block, int row, std::byte* unit) {
  for (int g = 0; g < 4; ++g) put_word(unit, g, row, word(block + 1, g));
  unit[PackedMXFP4::kScales + row] = block[0];
}

void put_row(PackedQ4_K, const std::byte* block, int row, std::byte* unit) {
  for (int part = 0; part < PackedQ4_K::kParts; ++part)
    put_nibbles(unit + part * 256, row,
                [&](int g) { return word(block + 16 + part / 2 * 32, g) >> (part % 2 == 1 ? 4 : 0) & kLow; });
  put_bytes(unit + PackedQ4_K::kSixBits, row, {block + 4, 12});
  put_bytes(unit + PackedQ4_K::kScales, row, {block, 4});
}

void put_row(PackedQ6_K, const std::byte* block, int row, std::byte* unit) {
  for (int part = 0; part < PackedQ6_K::kParts; ++part) {
    const int half = part / 4, quarter = part % 4;
    put_nibbles(unit + part * 256, row,
                [&](int g) { return word(block + half * 64 + quarter % 2 * 32, g) >> (quarter >= 2 ? 4 : 0) & kLow; });
    for (int v = 0; v < 2; ++v) {  // the upper two bits of four vectors, side by side
      uint32_t upper = 0;
      for (int g = 0; g < 4; ++g)
        upper |= (word(block + 128 + half * 32, v * 4 + g) >> 2 * quarter & 0x03030303) << 2 * g;
      put_word(unit + PackedQ6_K::kUpper + part * 128, v, row, upper);
    }
  }
  put_bytes(unit + PackedQ6_K::kParted, row, {block + 192, 16});
  put_half(unit + PackedQ6_K::kScales, row, block + 208);
}

int round_up(int size, int step) { return (size + step - 1) / step * step; }

size_t aligned_bytes(const Weight& w) {
  constexpr size_t kLine = 64;
  return (packed_bytes(w.type, w.rows, w.cols) + kLine - 1) / kLine * kLine;
}

}  // namespace

void pack_blocks(const Weight& w, int row, int begin, int end, std::byte* to) {
  const tensor::Block block = tensor::block_of(w.type);
  const size_t row_bytes = tensor::bytes_of(w.type, static_cast<size_t>(w.cols));
  const auto* from = static_cast<const std::byte*>(w.data) + static_cast<size_t>(row) * row_bytes;
  const int rows = std::min(kPanelOutputs, w.rows - row);
  with_packed_format(w.type, [&]<class Format>(std::type_identity<Format>) {
    for (int b = begin; b < end; b += Format::kParts, to += Format::kBytes) {
      if (rows < kPanelOutputs) std::memset(to, 0, Format::kBytes);
      const std::byte* first = from + static_cast<size_t>(b / Format::kParts) * block.bytes;
      for (int l = 0; l < rows; ++l) put_row(Format{}, first + static_cast<size_t>(l) * row_bytes, l, to);
    }
  });
}

Weight to_be_packed(const Weight& weight) {
  CHOIR_CHECK(weight.layout == tensor::Layout::kRows && can_pack(weight.type),
              std::string(tensor::name_of(weight.type)));
  Weight result = weight;
  result.layout = tensor::Layout::kRowsToPanels;
  return result;
}

// Words of a row go to every sixteenth place.
void pack_numbers(const Weight& w, int row, int begin, int end, std::byte* to) {
  const size_t number = tensor::size_of(w.type), step = static_cast<size_t>(w.cols) * number;
  const size_t bytes = static_cast<size_t>(end - begin) * number, words = (bytes + kWordBytes - 1) / kWordBytes;
  const auto* from = static_cast<const std::byte*>(w.data) + static_cast<size_t>(row) * step + begin * number;
  const int rows = std::min(kPanelOutputs, w.rows - row);
  if (rows < kPanelOutputs || bytes % kWordBytes != 0) std::memset(to, 0, words * kWordBytes * kPanelOutputs);
  for (size_t i = 0; i < bytes / kWordBytes; ++i)
    for (int l = 0; l < rows; ++l)
      std::memcpy(to + (i * kPanelOutputs + l) * kWordBytes, from + l * step + i * kWordBytes, kWordBytes);
  for (int l = 0; l < rows && bytes % kWordBytes != 0; ++l)
    std::memcpy(to + ((words - 1) * kPanelOutputs + l) * kWordBytes, from + l * step + (words - 1) * kWordBytes,
                number);
}

bool can_pack(DType type) { return byte_tile_for(type) || number_tile_for(type); }

bool wants_blocks(DType type) {
  CHOIR_CHECK(can_pack(type), std::string(tensor::name_of(type)));
  return byte_tile_for(type);
}

bool wants_pairs(DType type) { return type == DType::kBF16 && best_isa() >= Isa::kBf16; }

size_t packed_bytes(DType type, int rows, int cols) {
  const int word = wants_blocks(type) ? 1 : kWordBytes / static_cast<int>(tensor::size_of(type));
  return static_cast<size_t>(round_up(rows, kPanelOutputs)) *
         tensor::bytes_of(type, static_cast<size_t>(round_up(cols, word)));
}

size_t packed_bytes(std::span<const Weight> weights) {
  size_t bytes = 0;
  for (const Weight& w : weights) bytes += aligned_bytes(w);
  return bytes;
}

void pack_panel(const Weight& w, int row, std::byte* to) {
  CHOIR_CHECK(w.layout != tensor::Layout::kPanels, "packed already");
  if (wants_blocks(w.type))
    pack_blocks(w, row, 0, w.cols / RowBlock::kNumbers, to);
  else
    pack_numbers(w, row, 0, w.cols, to);
}

// A thread should fill huge pages of its own: two that touch the same one first both clear it.
void pack(std::span<Weight> weights, std::span<std::byte> to, Threads& threads) {
  CHOIR_CHECK(to.size() == packed_bytes(weights), std::to_string(to.size()) + " bytes");
  constexpr size_t kPiece = size_t{4} << 20;
  const auto panel_bytes = [](const Weight& w) { return packed_bytes(w.type, kPanelOutputs, w.cols); };
  const auto panels_at_once = [&](const Weight& w) {
    return static_cast<int>(kPiece / std::max<size_t>(1, panel_bytes(w))) + 1;
  };
  const auto panels = [](const Weight& w) { return round_up(w.rows, kPanelOutputs) / kPanelOutputs; };
  int count = 0;
  for (const Weight& w : weights) count += round_up(panels(w), panels_at_once(w)) / panels_at_once(w);
  threads.for_each(count, [&](int piece) {
    std::byte* place = to.data();
    size_t i = 0;
    for (;; ++i) {
      const int mine = round_up(panels(weights[i]), panels_at_once(weights[i])) / panels_at_once(weights[i]);
      if (piece < mine) break;
      piece -= mine;
      place += aligned_bytes(weights[i]);
    }
    const Weight& w = weights[i];
    const int first = piece * panels_at_once(w), last = std::min(panels(w), first + panels_at_once(w));
    for (int panel = first; panel < last; ++panel) {
      std::byte* of_panel = place + static_cast<size_t>(panel) * panel_bytes(w);
      pack_panel(w, panel * kPanelOutputs, of_panel);
    }
  });
  std::byte* place = to.data();
  for (Weight& w : weights) {
    w.data = place;
    place += aligned_bytes(w);
    w.layout = tensor::Layout::kPanels;
  }
}

}  // namespace choir::kernels
