#include "kernels/byte_tile.h"

#include <functional>
#include <type_traits>

#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

constexpr int kAhead = 2048;  // bytes: a stream from memory is a fifth faster when asked for so early

// The version for machines with VNNI alone may come to these two. They are instructions of which the vector extension
// cannot say the first, and the second only in sixteen steps.

// sum[l] + the products of four bytes without sign in w[l] with four bytes with sign at x.
CHOIR_INLINE IntVec add_products(IntVec sum, IntVec w, const int8_t* x) {
  const auto& four = *reinterpret_cast<const int8_t(*)[4]>(x);
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(four));
  return sum;
}

struct InAllLanes {
  CHOIR_INLINE IntVec operator()(const int32_t& x) const {
    IntVec v;
    asm("vpbroadcastd %1, %0" : "=v"(v) : "m"(x));
    return v;
  }
};

// What the sum over codes begins with, so that it is one over codes less kOffset: -kOffset sum q.
template <class Format, class Take>
CHOIR_INLINE auto start(const RowBlock& x, int half, const Take& take) {
  static_assert(Format::kHalves == 1 || Format::kOffset == 32);
  if constexpr (Format::kHalves == 2)
    return take(half == 0 ? x.low : x.high);
  else
    return take(x.offset) >> (Format::kOffset == 8 ? 4 : 0);
}

struct Place {
  const std::byte* unit;
  int part, half, lane;
};

// out[r] = the exact sums over one scale's numbers, for W outputs from `lane` on.
template <class Format, int R>
CHOIR_INLINE void integer_sums(const Place& at, const RowBlock* x, Vec (&out)[R]) {
  constexpr int kVectors = 8 / Format::kHalves;
  IntVec sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = Format::kOffset ? start<Format>(x[r], at.half, InAllLanes{}) : IntVec{};
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const int g = at.half * kVectors + i;
    const IntVec w = Format::template codes<kLanes>(at.unit, at.part, g, 0);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] = add_products(sum[r], w, x[r].q + g * 4);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) out[r] = __builtin_convertvector(sum[r], Vec);
}

// The same in floats: all partial sums are whole and below 2^24, so nothing is rounded.
template <int W, class Format, int R>
CHOIR_INLINE void float_sums(const Place& at, const RowBlock* x, typename Native<W>::Floats (&out)[R]) {
  constexpr int kNumbers = RowBlock::kNumbers / Format::kHalves;
  float number[R][kNumbers];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < kNumbers; ++k) number[r][k] = static_cast<float>(x[r].q[at.half * kNumbers + k]);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
    out[r] = typename Native<W>::Floats{} +
             (Format::kOffset ? static_cast<float>(start<Format>(x[r], at.half, std::identity{})) : 0.0f);
  for (int i = 0; i < kNumbers / 4; ++i) {
    const auto four = Format::template codes<W>(at.unit, at.part, at.half * kNumbers / 4 + i, at.lane);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto w = as_floats<W>((four >> 8 * j) & 255);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) out[r] += w * number[r][i * 4 + j];
    }
  }
}

template <bool Vnni, int W, class Format, int R>
CHOIR_INLINE void add_part(const Place& part, const RowBlock* x, typename Native<W>::Floats (&total)[R]) {
  typename Native<W>::Floats sum[R];
#pragma GCC unroll 2
  for (int half = 0; half < Format::kHalves; ++half) {
    const Place at{part.unit, part.part, half, part.lane};
    if constexpr (Vnni)
      integer_sums<Format>(at, x, sum);
    else
      float_sums<W, Format>(at, x, sum);
    const auto scale = Format::template scale<W>(at.unit, at.part, half, at.lane);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[r] += sum[r] * (scale * x[r].scale);
  }
  if constexpr (Format::kMin) {
    const auto min = Format::template min<W>(part.unit, part.part, part.lane);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[r] -= min * x[r].total;
  }
}

// Rows r0 .. r0 + R - 1 of the tile, W outputs from `lane` on.
template <bool Vnni, int W, class Format, int R>
CHOIR_INLINE void some_rows(const ByteTile& tile, int r0, int lane) {
  using Floats = typename Native<W>::Floats;
  Floats total[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) total[r] = Floats{};
  const RowBlock* x = tile.x + r0;
  const std::byte* unit = tile.panel;
  for (int block = 0; block < tile.blocks; block += Format::kParts, unit += Format::kBytes) {
    if constexpr (Vnni)
#pragma GCC unroll 64
      for (int line = 0; line < Format::kBytes; line += 64) __builtin_prefetch(unit + kAhead + line);
    for (int part = 0; part < Format::kParts; ++part, x += tile.rows)
      add_part<Vnni, W, Format, R>({unit, part, 0, lane}, x, total);
  }
  const int wanted = tile.cols - lane < W ? tile.cols - lane : W;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Floats result = total[r];  // a copy: what has an address stays in memory, also inside the loop
    std::memcpy(tile.y + (r0 + r) * tile.y_stride + lane, &result, static_cast<size_t>(wanted) * sizeof(float));
  }
}

// Every number of rows has its own code, so that weights are read once.
template <class Format, int R = kTileRows>
CHOIR_INLINE void vnni_rows(const ByteTile& tile) {
  if (tile.rows == R) return some_rows<true, kLanes, Format, R>(tile, 0, 0);
  if constexpr (R > 1) vnni_rows<Format, R - 1>(tile);
}

template <int W, class Format>
CHOIR_INLINE void float_rows(const ByteTile& tile) {
  constexpr int kRows = 4;
  for (int lane = 0; lane < tile.cols; lane += W) {
    int r = 0;
    for (; r + kRows <= tile.rows; r += kRows) some_rows<false, W, Format, kRows>(tile, r, lane);
    for (; r < tile.rows; ++r) some_rows<false, W, Format, 1>(tile, r, lane);
  }
}

template <class Format>
void tile_plain(const ByteTile& tile) {
  float_rows<4, Format>(tile);
}
template <class Format>
CHOIR_AVX2 void tile_avx2(const ByteTile& tile) {
  float_rows<8, Format>(tile);
}
template <class Format>
CHOIR_AVX512 void tile_avx512(const ByteTile& tile) {
  float_rows<16, Format>(tile);
}
template <class Format>
CHOIR_AVX512 void tile_vnni(const ByteTile& tile) {
  vnni_rows<Format>(tile);
}

template <class Format>
constexpr Versions<void(const ByteTile&)> kTile{tile_plain<Format>, tile_avx2<Format>, tile_avx512<Format>,
                                                tile_vnni<Format>};

}  // namespace

const Versions<void(const ByteTile&)>* byte_tile_for(tensor::DType type) {
  const Versions<void(const ByteTile&)>* found = nullptr;
  with_packed_format(type, [&]<class Format>(std::type_identity<Format>) { found = &kTile<Format>; });
  return found;
}

}  // namespace choir::kernels
