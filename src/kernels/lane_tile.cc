#include "kernels/lane_tile.h"

#include <type_traits>

#include "kernels/lanes.h"
#include "kernels/packed_formats.h"

namespace choir::kernels {
namespace {

constexpr int kAhead = 8192;  // bytes: measured (bench/quant_gemm decode)

// Sixteen of a unit's numbers, the first or the second half: lanes part * W to part * W + W - 1 of them.
template <int W>
CHOIR_INLINE typename Native<W>::Floats widened(std::type_identity<float>, const std::byte* unit, int) {
  return vector_at<typename Native<W>::Floats>(unit);
}
template <int W>
CHOIR_INLINE typename Native<W>::Floats widened(std::type_identity<tensor::BF16>, const std::byte* unit, int half) {
  using Ints = typename Native<W>::Ints;
  const auto pairs = vector_at<Ints>(unit);
  return reinterpret_cast<typename Native<W>::Floats>(half == 0 ? pairs << 16 : pairs & -65536);
}
template <int W>
CHOIR_INLINE typename Native<W>::Floats widened(std::type_identity<tensor::F16>, const std::byte* unit, int half) {
  using Ints = typename Native<W>::Ints;
  const auto pairs = vector_at<Ints>(unit);
  return widen_half<typename Native<W>::Floats>(half == 0 ? pairs : pairs >> 16);
}

template <int W, class Type>
CHOIR_INLINE Lanes<W> half_unit(const std::byte* unit, int half) {
  Lanes<W> result;
#pragma GCC unroll 4
  for (int i = 0; i < Lanes<W>::kParts; ++i)
    result.part[i] = widened<W>(std::type_identity<Type>{}, unit + i * W * 4, half);
  return result;
}

template <int W, int R, int C, class Type>
struct SomeColumns {
  static constexpr int kHalves = unit_numbers(sizeof(Type)) / kLanes;
  const float* x[R];
  const std::byte* w;
  Lanes<W> total[R][C];

  // Rows r0 .. r0 + R - 1 and columns c0 .. c0 + C - 1. A tile over the last row repeats it and drops the result.
  CHOIR_INLINE void begin(const LaneTile& tile, int r0, int c0) {
    for (int r = 0; r < R; ++r) x[r] = tile.x[r0 + r < tile.rows ? r0 + r : tile.rows - 1];
    w = tile.panel + c0 * kLaneUnit;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) total[r][c] = {};
  }

  // One unit of each column, of which `left` numbers are wanted.
  template <bool Whole>
  CHOIR_INLINE void step(int k, int left) {
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half) {
      Lanes<W> row[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float* from = x[r] + k + half * kLanes;
        row[r] = Whole ? load_lanes<W>(from) : lanes<W>(load_part(from, left - half * kLanes));
      }
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        if (half == 0) __builtin_prefetch(w + c * kLaneUnit + kAhead);
        const Lanes<W> column = half_unit<W, Type>(w + c * kLaneUnit, half);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) multiply_add(total[r][c], row[r], column);
      }
    }
    w += kLanePanel * kLaneUnit;
  }

  CHOIR_INLINE void finish(const LaneTile& tile, int r0, int c0) const {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const float result = sum(total[r][c]);
        if (r0 + r < tile.rows && c0 + c < tile.cols) tile.y[(r0 + r) * tile.y_stride + c0 + c] = result;
      }
  }
};

template <int W, int R, int C, class Type>
CHOIR_INLINE void some_columns(const LaneTile& tile, int r0, int c0) {
  constexpr int kStep = unit_numbers(sizeof(Type));
  SomeColumns<W, R, C, Type> some;
  some.begin(tile, r0, c0);
  int k = 0;
  for (; k + kStep <= tile.depth; k += kStep) some.template step<true>(k, kStep);
  if (k < tile.depth) some.template step<false>(k, tile.depth - k);
  some.finish(tile, r0, c0);
}

template <int W, int R, int C, class Type>
CHOIR_INLINE void all_columns(const LaneTile& tile) {
  for (int c = 0; c < tile.cols; c += C)
    for (int r = 0; r < tile.rows; r += R) some_columns<W, R, C, Type>(tile, r, c);
}

// One row takes Single columns at once, two to four rows Pair of them: a panel is then one stream from memory. Of more
// rows, R by C need the fewest loads.
template <int W, int Single, int Pair, int R, int C, class Type>
CHOIR_INLINE void panel(const LaneTile& tile) {
  if (tile.rows == 1)
    all_columns<W, 1, Single, Type>(tile);
  else if (tile.rows <= 4)
    all_columns<W, 2, Pair, Type>(tile);
  else
    all_columns<W, R, C, Type>(tile);
}

template <class Type>
void panel_plain(const LaneTile& tile) {
  panel<4, 2, 1, 2, 1, Type>(tile);
}
template <class Type>
CHOIR_AVX2 void panel_avx2(const LaneTile& tile) {
  panel<8, 4, 2, 2, 2, Type>(tile);
}
template <class Type>
CHOIR_AVX512 void panel_avx512(const LaneTile& tile) {
  panel<16, 8, 8, 4, 4, Type>(tile);
}

template <class Type>
constexpr Versions<void(const LaneTile&)> kPanels{panel_plain<Type>, panel_avx2<Type>, panel_avx512<Type>};

}  // namespace

const Versions<void(const LaneTile&)>* lane_tile_for(tensor::DType type) {
  switch (type) {
    case tensor::DType::kF32: return &kPanels<float>;
    case tensor::DType::kBF16: return &kPanels<tensor::BF16>;
    case tensor::DType::kF16: return &kPanels<tensor::F16>;
    default: return nullptr;
  }
}

}  // namespace choir::kernels
