#include "kernels/lane_tile.h"

#include <type_traits>

#include "kernels/lanes.h"

namespace choir::kernels {
namespace {

constexpr int kAhead = 2048;  // bytes

// Rows r0 .. r0 + R - 1 and columns c0 .. c0 + C - 1. A tile over the last row repeats it and drops the result.
template <int W, int R, int C, class Type>
CHOIR_INLINE void some_columns(const LaneTile& tile, int r0, int c0) {
  const float* x[R];
  for (int r = 0; r < R; ++r) x[r] = tile.x[r0 + r < tile.rows ? r0 + r : tile.rows - 1];
  const Type* w = reinterpret_cast<const Type*>(tile.panel) + c0 * kLanes;
  Lanes<W> total[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) total[r][c] = {};
  for (int k = 0; k < tile.depth; k += kLanes, w += kLanePanel * kLanes) {
    Lanes<W> row[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) row[r] = lanes<W>(load(x[r] + k, tile.depth - k));
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      if (c * kLanes * sizeof(Type) % 64 == 0)
        __builtin_prefetch(reinterpret_cast<const std::byte*>(w + c * kLanes) + kAhead);
      const Lanes<W> column = load_lanes<W>(w + c * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) multiply_add(total[r][c], row[r], column);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const float result = sum(total[r][c]);
      if (r0 + r < tile.rows && c0 + c < tile.cols) tile.y[(r0 + r) * tile.y_stride + c0 + c] = result;
    }
}

// A single row takes Single columns at once, so that a panel is read in one go where the registers allow it.
template <int W, int R, int C, int Single, class Type>
CHOIR_INLINE void panel(const LaneTile& tile) {
  if (tile.rows == 1) {
    for (int c = 0; c < tile.cols; c += Single) some_columns<W, 1, Single, Type>(tile, 0, c);
    return;
  }
  for (int c = 0; c < tile.cols; c += C)
    for (int r = 0; r < tile.rows; r += R) some_columns<W, R, C, Type>(tile, r, c);
}

template <class Type>
void panel_plain(const LaneTile& tile) {
  panel<4, 2, 1, 2, Type>(tile);
}
template <class Type>
CHOIR_AVX2 void panel_avx2(const LaneTile& tile) {
  panel<8, 2, 2, 4, Type>(tile);
}
template <class Type>
CHOIR_AVX512 void panel_avx512(const LaneTile& tile) {
  panel<16, 4, 4, 8, Type>(tile);
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
