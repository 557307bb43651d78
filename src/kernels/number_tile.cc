#include "kernels/number_tile.h"

#include <type_traits>

#include "kernels/packed_formats.h"
#include "kernels/pair_lanes.h"

namespace choir::kernels {
namespace {

constexpr int kAhead = 8192;  // bytes: measured (bench/quant_gemm decode)
constexpr int kFewRows = 4;   // which read a panel as fast as memory gives it

// The numbers at place n of the words of rows lane .. lane + W - 1.
template <int W>
CHOIR_INLINE auto widened(std::type_identity<float>, const std::byte* words, int) {
  return vector_at<typename Native<W>::Floats>(words);
}
template <int W>
CHOIR_INLINE auto widened(std::type_identity<tensor::BF16>, const std::byte* words, int n) {
  const auto pairs = vector_at<typename Native<W>::Ints>(words);
  return reinterpret_cast<typename Native<W>::Floats>(n == 0 ? pairs << 16 : pairs & -65536);
}
template <int W>
CHOIR_INLINE auto widened(std::type_identity<tensor::F16>, const std::byte* words, int n) {
  const auto pairs = vector_at<typename Native<W>::Ints>(words);
  const auto bits = n == 0 ? pairs : pairs >> 16;
  if constexpr (W == kLanes) {
    const auto halves = __builtin_convertvector(bits, typename Native<W>::Halves);
    typename Native<W>::Floats numbers;
    asm("vcvtph2ps %1, %0" : "=v"(numbers) : "v"(halves));
    return numbers;
  } else {
    return widen_half<typename Native<W>::Floats>(bits);
  }
}

template <class Floats, int P, int R>
CHOIR_INLINE void begin(const NumberTile& tile, int r0, int col, Floats (&total)[P][R]) {
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[p][r] = begun<Floats>(tile, r0 + r, col + p * kPanelOutputs);
}

template <class Floats, int P, int R>
CHOIR_INLINE void finish(const NumberTile& tile, int r0, int col, const Floats (&total)[P][R]) {
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) put(tile, r0 + r, col + p * kPanelOutputs, total[p][r]);
}

// Rows r0 .. r0 + R - 1 of the tile against P panels, of each W outputs, from output `col` on.
template <class Type, int W, int P, int R>
CHOIR_INLINE void some_rows(const NumberTile& tile, int r0, int col) {
  constexpr int kNumbers = kWordBytes / static_cast<int>(sizeof(Type)), kStep = kPanelOutputs * kWordBytes;
  using Floats = typename Native<W>::Floats;
  Floats total[P][R];
  begin(tile, r0, col, total);
  const float* x[R];
  for (int r = 0; r < R; ++r) x[r] = tile.x[r0 + r];
  const std::byte* words = tile.panel + col / kPanelOutputs * tile.panel_bytes + col % kPanelOutputs * kWordBytes;
  const auto add = [&](int k, int n) __attribute__((always_inline)) {
    Floats w[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) w[p] = widened<W>(std::type_identity<Type>{}, words + p * tile.panel_bytes, n);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) total[p][r] += w[p] * x[r][k + n];
  };
  int k = 0;
#pragma GCC unroll 2
  for (; k + kNumbers <= tile.depth; k += kNumbers, words += kStep) {
    if constexpr (R <= kFewRows)
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) __builtin_prefetch(words + p * tile.panel_bytes + kAhead);
#pragma GCC unroll 2
    for (int n = 0; n < kNumbers; ++n) add(k, n);
  }
  if (k < tile.depth) add(k, 0);
  finish(tile, r0, col, total);
}

// The same with the instruction for pairs.
template <int P, int R>
CHOIR_INLINE void some_pair_rows(const NumberTile& tile, int r0, int col) {
  Vec total[P][R];
  begin(tile, r0, col, total);
  const uint32_t* x[R];
  for (int r = 0; r < R; ++r) x[r] = tile.pairs[r0 + r];
  const std::byte* words = tile.panel + col / kPanelOutputs * tile.panel_bytes;
#pragma GCC unroll 4
  for (int k = 0; k < (tile.depth + 1) / 2; ++k, words += kPanelOutputs * kWordBytes) {
    IntVec w[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      w[p] = vector_at<IntVec>(words + p * tile.panel_bytes);
      if (R <= kFewRows) __builtin_prefetch(words + p * tile.panel_bytes + kAhead);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const IntVec word = in_all(x[r][k]);
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) total[p][r] = add_pairs(total[p][r], w[p], word);
    }
  }
  finish(tile, r0, col, total);
}

// Every number of rows has its own code, so that few rows read the weights once; and they read one panel at a time, one
// stream from memory.
template <class Type, bool Pairs, int P, int R = kTileRows>
CHOIR_INLINE void wide_rows(const NumberTile& tile, int col) {
  if (tile.rows >= R) {
    if constexpr (Pairs)
      return some_pair_rows<P, R>(tile, 0, col);
    else
      return some_rows<Type, kLanes, P, R>(tile, 0, col);
  }
  if constexpr (R > 1) wide_rows<Type, Pairs, P, R - 1>(tile, col);
}

template <class Type, bool Pairs>
CHOIR_INLINE void wide_panels(const NumberTile& tile) {
  int col = 0;
  if (tile.rows > kFewRows)
    for (; col + kPanelOutputs < tile.cols; col += kTilePanels * kPanelOutputs)
      wide_rows<Type, Pairs, kTilePanels>(tile, col);
  for (; col < tile.cols; col += kPanelOutputs) wide_rows<Type, Pairs, 1>(tile, col);
}

template <class Type, int W>
CHOIR_INLINE void narrow_panels(const NumberTile& tile) {
  constexpr int kRowsAtOnce = 4;
  for (int col = 0; col < tile.cols; col += W) {
    int r = 0;
    for (; r + kRowsAtOnce <= tile.rows; r += kRowsAtOnce) some_rows<Type, W, 1, kRowsAtOnce>(tile, r, col);
    for (; r < tile.rows; ++r) some_rows<Type, W, 1, 1>(tile, r, col);
  }
}

template <class Type>
void tile_plain(const NumberTile& tile) {
  narrow_panels<Type, 4>(tile);
}
template <class Type>
CHOIR_AVX2 void tile_avx2(const NumberTile& tile) {
  narrow_panels<Type, 8>(tile);
}
template <class Type>
CHOIR_AVX512 void tile_avx512(const NumberTile& tile) {
  wide_panels<Type, false>(tile);
}
CHOIR_AVX512 void tile_pairs(const NumberTile& tile) { wide_panels<tensor::BF16, true>(tile); }

template <class Type>
constexpr Versions<void(const NumberTile&)> kTile{tile_plain<Type>, tile_avx2<Type>, tile_avx512<Type>};

constexpr Versions<void(const NumberTile&)> kPairTile{tile_plain<tensor::BF16>, tile_avx2<tensor::BF16>,
                                                      tile_avx512<tensor::BF16>, tile_avx512<tensor::BF16>, tile_pairs};

}  // namespace

const Versions<void(const NumberTile&)>* number_tile_for(tensor::DType type) {
  switch (type) {
    case tensor::DType::kF32: return &kTile<float>;
    case tensor::DType::kBF16: return &kPairTile;
    case tensor::DType::kF16: return &kTile<tensor::F16>;
    default: return nullptr;
  }
}

}  // namespace choir::kernels
