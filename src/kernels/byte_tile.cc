#include "kernels/byte_tile.h"

#include <bit>
#include <functional>
#include <type_traits>

#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

constexpr int kAhead = 8192;  // bytes: measured (bench/quant_gemm decode); half as many are too late for memory

// The version for machines with VNNI alone may come to these. They are instructions of which the vector extension
// cannot say the first, and the second only in sixteen steps.

// sum[l] + the products of four bytes without sign in w[l] with four bytes with sign: of x[l], or at x for every l.
CHOIR_INLINE IntVec add_products(IntVec sum, IntVec w, IntVec x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  return sum;
}
CHOIR_INLINE IntVec add_products(IntVec sum, IntVec w, const int8_t* x) {
  const auto& four = *reinterpret_cast<const int8_t(*)[4]>(x);
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(four));
  return sum;
}

CHOIR_INLINE IntVec in_all_lanes(const int8_t* x) {
  const auto& four = *reinterpret_cast<const int8_t(*)[4]>(x);
  IntVec v;
  asm("vpbroadcastd %1, %0" : "=v"(v) : "m"(four));
  return v;
}

struct InAllLanes {
  CHOIR_INLINE IntVec operator()(const int32_t& x) const { return in_all_lanes(reinterpret_cast<const int8_t*>(&x)); }
};

// What the sum over codes begins with, so that it is one over codes less kOffset: -kOffset sum q.
template <class Format, class Take>
CHOIR_INLINE auto start(const RowBlock& x, int half, const Take& take) {
  static_assert(Format::kHalves == 1 || Format::kOffset == 32);
  if constexpr (Format::kHalves == 2)
    return take(half == 0 ? x.low : x.high);
  else
    return take(x.offset) >> std::countr_zero(128u / Format::kOffset);
}

// One part of a unit, one of its scales, W outputs from `lane` on; and how far the next panel is.
struct Place {
  const std::byte* unit;
  ptrdiff_t panel_bytes;
  int part, half, lane;
};

// The loop that all speed hangs on: P panels, R rows. A number of x is read once for both panels.
template <class Format, int P, int R>
CHOIR_INLINE void add_codes(const Place& at, const RowBlock* x, IntVec (&sum)[P][R]) {
  constexpr int kVectors = 8 / Format::kHalves;
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const int g = at.half * kVectors + i;
    IntVec w[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) w[p] = Format::template codes<kLanes>(at.unit + p * at.panel_bytes, at.part, g, 0);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if constexpr (P == 1) {
        sum[0][r] = add_products(sum[0][r], w[0], x[r].q + g * 4);
      } else {
        const IntVec four = in_all_lanes(x[r].q + g * 4);
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) sum[p][r] = add_products(sum[p][r], w[p], four);
      }
    }
  }
}

// out[p][r] = the exact sums over one scale's numbers.
template <class Format, int P, int R>
CHOIR_INLINE void integer_sums(const Place& at, const RowBlock* x, Vec (&out)[P][R]) {
  IntVec sum[P][R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const IntVec first = Format::kOffset ? start<Format>(x[r], at.half, InAllLanes{}) : IntVec{};
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) sum[p][r] = first;
  }
  add_codes<Format>(at, x, sum);
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[p][r] = __builtin_convertvector(sum[p][r], Vec);
}

// The same in floats: all partial sums are whole and below 2^24, so nothing is rounded.
template <int W, class Format, int R>
CHOIR_INLINE void float_sums(const Place& at, const RowBlock* x, typename Native<W>::Floats (&out)[1][R]) {
  constexpr int kNumbers = RowBlock::kNumbers / Format::kHalves;
  float number[R][kNumbers];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < kNumbers; ++k) number[r][k] = static_cast<float>(x[r].q[at.half * kNumbers + k]);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
    out[0][r] = typename Native<W>::Floats{} +
                (Format::kOffset ? static_cast<float>(start<Format>(x[r], at.half, std::identity{})) : 0.0f);
  for (int i = 0; i < kNumbers / 4; ++i) {
    const auto four = Format::template codes<W>(at.unit, at.part, at.half * kNumbers / 4 + i, at.lane);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto w = as_floats<W>((four >> 8 * j) & 255);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) out[0][r] += w * number[r][i * 4 + j];
    }
  }
}

template <bool Vnni, int W, class Format, int P, int R>
CHOIR_INLINE void add_part(Place at, const RowBlock* x, typename Native<W>::Floats (&total)[P][R]) {
  typename Native<W>::Floats sum[P][R];
#pragma GCC unroll 2
  for (at.half = 0; at.half < Format::kHalves; ++at.half) {
    if constexpr (Vnni)
      integer_sums<Format>(at, x, sum);
    else
      float_sums<W, Format>(at, x, sum);
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      const auto scale = Format::template scale<W>(at.unit + p * at.panel_bytes, at.part, at.half, at.lane);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) total[p][r] += sum[p][r] * (scale * x[r].scale);
    }
  }
  if constexpr (Format::kMin)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      const auto min = Format::template min<W>(at.unit + p * at.panel_bytes, at.part, at.lane);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) total[p][r] -= min * x[r].total;
    }
}

// Rows r0 .. r0 + R - 1 of the tile against P panels from `panel` on, of each W outputs from `lane` on.
template <bool Vnni, int W, class Format, int P, int R>
CHOIR_INLINE void some_rows(const ByteTile& tile, int r0, int panel, int lane) {
  using Floats = typename Native<W>::Floats;
  Floats total[P][R];
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[p][r] = begun<Floats>(tile, r0 + r, (panel + p) * kPanelOutputs + lane);
  const RowBlock* x = tile.x + r0;
  const std::byte* unit = tile.panel + panel * tile.panel_bytes;
  for (int block = 0; block < tile.blocks; block += Format::kParts, unit += Format::kBytes) {
    if constexpr (Vnni && P == 1)
#pragma GCC unroll 64
      for (int line = 0; line < Format::kBytes; line += 64) __builtin_prefetch(unit + kAhead + line);
    for (int part = 0; part < Format::kParts; ++part, x += tile.rows)
      add_part<Vnni, W, Format>({unit, tile.panel_bytes, part, 0, lane}, x, total);
  }
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) put(tile, r0 + r, (panel + p) * kPanelOutputs + lane, total[p][r]);
}

constexpr int kRowsAtOnce = 4;

// Every number of rows up to four has its own code, so that few rows read the weights once.
template <class Format, int P, int R = kRowsAtOnce>
CHOIR_INLINE void vnni_rows(const ByteTile& tile, int r0, int panel) {
  if (tile.rows - r0 >= R) return some_rows<true, kLanes, Format, P, R>(tile, r0, panel, 0);
  if constexpr (R > 1) vnni_rows<Format, P, R - 1>(tile, r0, panel);
}

template <class Format>
CHOIR_INLINE void vnni_panels(const ByteTile& tile) {
  const int panels = (tile.cols + kPanelOutputs - 1) / kPanelOutputs;
  const int together = tile.rows > kRowsAtOnce ? kTilePanels : 1;
  int panel = 0;
  for (; panel + together <= panels && together == kTilePanels; panel += kTilePanels)
    for (int r = 0; r < tile.rows; r += kRowsAtOnce) vnni_rows<Format, kTilePanels>(tile, r, panel);
  for (; panel < panels; ++panel)
    for (int r = 0; r < tile.rows; r += kRowsAtOnce) vnni_rows<Format, 1>(tile, r, panel);
}

template <int W, class Format>
CHOIR_INLINE void float_panels(const ByteTile& tile) {
  for (int col = 0; col < tile.cols; col += W) {
    const int panel = col / kPanelOutputs, lane = col % kPanelOutputs;
    int r = 0;
    for (; r + kRowsAtOnce <= tile.rows; r += kRowsAtOnce)
      some_rows<false, W, Format, 1, kRowsAtOnce>(tile, r, panel, lane);
    for (; r < tile.rows; ++r) some_rows<false, W, Format, 1, 1>(tile, r, panel, lane);
  }
}

template <class Format>
void tile_plain(const ByteTile& tile) {
  float_panels<4, Format>(tile);
}
template <class Format>
CHOIR_AVX2 void tile_avx2(const ByteTile& tile) {
  float_panels<8, Format>(tile);
}
template <class Format>
CHOIR_AVX512 void tile_avx512(const ByteTile& tile) {
  float_panels<16, Format>(tile);
}
template <class Format>
CHOIR_AVX512 void tile_vnni(const ByteTile& tile) {
  vnni_panels<Format>(tile);
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
