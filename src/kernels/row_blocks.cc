// Activations as bytes.
#include <emmintrin.h>

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"
#include "kernels/byte_tile.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

// The larger of whole numbers without sign.
template <class Ints>
CHOIR_INLINE Ints larger(Ints a, Ints b) {
  const Ints less = a - b;
  return a - (less & (less >> 31));
}

// Of sixteen, in halves.
CHOIR_INLINE int32_t largest(IntVec v) {
  Native<8>::Ints a, b;
  std::memcpy(&a, &v, sizeof a);
  std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof a, sizeof b);
  a = larger(a, b);
  Native<4>::Ints c, d;
  std::memcpy(&c, &a, sizeof c);
  std::memcpy(&d, reinterpret_cast<const char*>(&a) + sizeof c, sizeof d);
  c = larger(c, d);
  return std::max(std::max(c[0], c[1]), std::max(c[2], c[3]));
}

// x times `inverse`, rounded to whole numbers: adding 1.5 * 2^23 rounds to the nearest and leaves them in the low bits.
// Writes them as bytes and returns their sum, exact because they are few and small.
CHOIR_INLINE int32_t put_rounded(Vec x, float inverse, int8_t* to) {
  const Vec shifter = broadcast(0x1.8p23f), shifted = x * inverse + shifter;
  const IntVec whole = reinterpret_cast<IntVec>(shifted) - reinterpret_cast<IntVec>(shifter);
  __m128i four[4];  // of the baseline, for GCC 12 converts one number after the other
  std::memcpy(four, &whole, sizeof four);
  const __m128i bytes = _mm_packs_epi16(_mm_packs_epi32(four[0], four[1]), _mm_packs_epi32(four[2], four[3]));
  std::memcpy(to, &bytes, sizeof bytes);
  return static_cast<int32_t>(sum(shifted - shifter));
}

CHOIR_INLINE void quantize_block(const float* x, RowBlock& block) {
  const Vec a = load(x), b = load(x + kLanes);
  // Bits without the sign order as the magnitudes do, and a NaN comes out as the largest.
  const int32_t bits =
      largest(larger(reinterpret_cast<IntVec>(a) & 0x7fffffff, reinterpret_cast<IntVec>(b) & 0x7fffffff));
  const float most = std::bit_cast<float>(bits);
  if (bits >= 0x7f800000) {  // not finite: zeros, and a scale that makes NaNs of them
    block = RowBlock{};
    block.scale = most;
    block.total = most - most;
    return;
  }
  const float inverse = most > 0x1p-100f ? 127 / most : 0;
  const int32_t low = put_rounded(a, inverse, block.q), high = put_rounded(b, inverse, block.q + kLanes);
  block.scale = most / 127;
  block.total = block.scale * static_cast<float>(low + high);
  block.offset = -128 * (low + high);
  block.low = -32 * low;
  block.high = -32 * high;
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

// Half of the last place is added, less where the number is even below it; a NaN keeps a bit that survives.
CHOIR_INLINE IntVec rounded(Vec v) {
  const IntVec bits = reinterpret_cast<IntVec>(v), nan = (0x7f800000 - (bits & 0x7fffffff)) >> 31;
  const IntVec up = bits + 0x7fff + (bits >> 16 & 1);
  return ((up & ~nan) | ((bits | 0x400000) & nan)) >> 16 & 0xffff;
}

CHOIR_INLINE void round_body(const float* x, int cols, uint32_t* to) {
  for (int c = 0; c < cols; c += kLanes) {
    const IntVec whole = rounded(load(x + c, cols - c));
    uint16_t halves[kLanes];
    for (int i = 0; i < kLanes; ++i) halves[i] = static_cast<uint16_t>(whole[i]);
    std::memcpy(to + c / 2, halves, std::min(sizeof halves, pairs_of(cols - c) * sizeof(uint32_t)));
  }
}

void round_plain(const float* x, int cols, uint32_t* to) { round_body(x, cols, to); }
CHOIR_AVX2 void round_avx2(const float* x, int cols, uint32_t* to) { round_body(x, cols, to); }
CHOIR_AVX512 void round_avx512(const float* x, int cols, uint32_t* to) { round_body(x, cols, to); }
constexpr Versions<void(const float*, int, uint32_t*)> kRoundRow{round_plain, round_avx2, round_avx512};

}  // namespace

void round_to_pairs(Matrix<const float> x, std::span<uint32_t> pairs, Threads& threads) {
  const size_t stride = pairs_of(x.cols);
  CHOIR_CHECK(pairs.size() == static_cast<size_t>(x.rows) * stride, std::to_string(pairs.size()) + " pairs");
  constexpr int kRows = 16;
  threads.for_each((x.rows + kRows - 1) / kRows, [&](int piece) {
    for (int i = piece * kRows; i < std::min(x.rows, (piece + 1) * kRows); ++i)
      kRoundRow(x[i], x.cols, &pairs[static_cast<size_t>(i) * stride]);
  });
}

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
