// Activations as bytes.
#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

typedef int8_t ByteVec16 __attribute__((vector_size(16)));

// Sixteen numbers as whole ones: adding 1.5 * 2^23 rounds to the nearest and leaves it in the low bits.
CHOIR_INLINE IntVec rounded(Vec v) {
  const Vec shifter = broadcast(0x1.8p23f);
  return reinterpret_cast<IntVec>(v + shifter) - reinterpret_cast<IntVec>(shifter);
}

CHOIR_INLINE int32_t add_up(IntVec v) {
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

CHOIR_INLINE void quantize_block(const float* x, RowBlock& block) {
  const Vec a = load(x), b = load(x + kLanes);
  // Bits without the sign order as the magnitudes do, and a NaN comes out as the largest.
  const IntVec p = reinterpret_cast<IntVec>(a) & 0x7fffffff, q = reinterpret_cast<IntVec>(b) & 0x7fffffff;
  const IntVec less = p - q, both = p - (less & (less >> 31));
  int32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits = std::max(bits, both[i]);
  const float most = std::bit_cast<float>(bits);
  const float inverse = most > 0x1p-100f ? 127 / most : 0;
  const IntVec low = rounded(a * inverse), high = rounded(b * inverse);
  const ByteVec16 first = __builtin_convertvector(low, ByteVec16), second = __builtin_convertvector(high, ByteVec16);
  std::memcpy(block.q, &first, sizeof first);
  std::memcpy(block.q + kLanes, &second, sizeof second);
  const int32_t low_sum = add_up(low), high_sum = add_up(high), sum = low_sum + high_sum;
  block.scale = most / 127;
  block.total = block.scale * static_cast<float>(sum);
  block.offset = -128 * sum;
  block.low = -32 * low_sum;
  block.high = -32 * high_sum;
}

struct Row {
  const float* x;
  RowBlock* to;
  int blocks, step;
};

CHOIR_INLINE void row_body(const Row& row) {
  for (int b = 0; b < row.blocks; ++b) quantize_block(row.x + b * RowBlock::kNumbers, row.to[b * row.step]);
}

void row_plain(const Row& row) { row_body(row); }
CHOIR_AVX2 void row_avx2(const Row& row) { row_body(row); }
CHOIR_AVX512 void row_avx512(const Row& row) { row_body(row); }
constexpr Versions<void(const Row&)> kQuantizeRow{row_plain, row_avx2, row_avx512};

}  // namespace

size_t blocks_of(const Groups& groups, int cols) {
  return static_cast<size_t>(groups.offset.back()) * static_cast<size_t>(cols / RowBlock::kNumbers);
}

void quantize(const Groups& groups, Matrix<const float> x, std::span<RowBlock> blocks, Threads& threads) {
  CHOIR_CHECK(blocks.size() == blocks_of(groups, x.cols), std::to_string(blocks.size()) + " blocks");
  constexpr int kRows = 16;  // of one piece
  const int positions = groups.offset.back(), count = x.cols / RowBlock::kNumbers;
  threads.for_each((positions + kRows - 1) / kRows, [&](int piece) {
    for (int i = piece * kRows; i < std::min(positions, (piece + 1) * kRows); ++i) {
      const auto end = std::upper_bound(groups.offset.begin(), groups.offset.end(), i);
      const TileRows tile = tile_of(i, end[-1], *end);
      RowBlock* first = blocks.data() + static_cast<ptrdiff_t>(tile.first) * count + (i - tile.first);
      kQuantizeRow(Row{x[groups.source(i)], first, count, tile.rows});
    }
  });
}

}  // namespace choir::kernels
