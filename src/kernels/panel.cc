#include "kernels/panel.h"

#include <algorithm>

#include "kernels/panel_tile.h"
#include "kernels/turn.h"

namespace choir::kernels {
namespace {

constexpr int kTileRows = kPanelTile;
constexpr int kMostColumns = 64;  // of a panel of b
constexpr int kLine = 16;         // floats of a cache line
constexpr int kAhead = 8;         // rows: what a row of a panel takes to pack, against the way to memory

CHOIR_INLINE RowScalars<kTileRows> rows_from(const PanelBlock& block, int i, int p0) {
  RowScalars<kTileRows> result;
  for (int r = 0; r < kTileRows; ++r) result.row[r] = block.a_rows[std::min(i + r, block.rows - 1)] + p0;
  return result;
}

// Sixteen rows of sixteen, turned: out[i * step + j] = in[j * stride + i].
CHOIR_INLINE void turn_square(const float* in, ptrdiff_t stride, float* out, int step) {
  Vec v[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) v[i] = load(in + i * stride);
  turn(v);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(out + i * step, v[i]);
}

// Columns [j0, j0 + cols) of rows [p0, p0 + depth) of b, `width` numbers a row, zeros past the edge.
CHOIR_INLINE void pack(const PanelBlock& block, int p0, int depth, int j0, int width, float* panel) {
  const int cols = std::min(width, block.cols - j0);
  if (block.b_rows) {
    for (int p = 0; p < depth; ++p) {
      if (p + kAhead < depth)
        for (int c = 0; c < cols; c += kLine) __builtin_prefetch(block.b_rows[p0 + p + kAhead] + j0 + c);
      for (int c = 0; c < width; c += kLanes)
        store(panel + p * width + c, c < cols ? load(block.b_rows[p0 + p] + j0 + c, cols - c) : Vec{});
    }
    return;
  }
  const int whole_cols = cols / kLanes * kLanes, whole_depth = depth / kLanes * kLanes;
  for (int c = 0; c < whole_cols; c += kLanes)
    for (int p = 0; p < whole_depth; p += kLanes)
      turn_square(block.w + (j0 + c) * block.w_stride + p0 + p, block.w_stride, panel + p * width + c, width);
  for (int c = 0; c < width; ++c)
    for (int p = c < whole_cols ? whole_depth : 0; p < depth; ++p)
      panel[p * width + c] = c < cols ? block.w[(j0 + c) * block.w_stride + p0 + p] : 0;
}

// Column panels of a: kTileRows numbers for each p, the last row repeated past the edge. Row after row of what lies
// contiguous, fetched ahead. Eight numbers move at once: the two too many are overwritten with the next p, and after
// the last they fall between two panels.
constexpr int kAtOnce = 8, kColumnPanel = kPanelDepth * kTileRows + kLine;

CHOIR_INLINE void pack_columns(const PanelBlock& block, int p0, int depth, float* panels) {
  const int whole = block.rows / kTileRows * kTileRows, rest = block.rows - whole;
  for (int p = 0; p < depth; ++p) {
    const float* from = block.a + (p0 + p) * block.a_step;
    if (p + kAhead < depth)
      for (int i = 0; i < block.rows; i += kLine) __builtin_prefetch(from + kAhead * block.a_step + i);
    float* to = panels + p * kTileRows;
    int i = 0;
    for (; i + kAtOnce <= block.rows; i += kTileRows, to += kColumnPanel)
      std::memcpy(to, from + i, kAtOnce * sizeof(float));
    for (; i < whole; i += kTileRows, to += kColumnPanel) std::memcpy(to, from + i, kTileRows * sizeof(float));
    for (int r = 0; rest > 0 && r < kTileRows; ++r) to[r] = from[whole + std::min(r, rest - 1)];
  }
}

// The rows of a and the results of the next tile, where this is their first use: far away in memory, and too short for
// the machine to foresee.
CHOIR_INLINE void fetch_ahead(const PanelBlock& block, int i, int p0, int depth, int j0) {
  for (int r = i + kTileRows; r < std::min(i + 2 * kTileRows, block.rows); ++r) {
    for (int j = j0; p0 == 0 && j < std::min(j0 + kMostColumns, block.cols); j += kLine)
      __builtin_prefetch(block.y + r * block.y_stride + j, 1);
    if (!block.a_rows || j0 > 0) continue;
    for (int p = 0; p < depth; p += kLine) __builtin_prefetch(block.a_rows[r] + p0 + p);
  }
}

// A tile over the edge of the block works on a copy of its results.
template <class Set, int C, class Scalars>
CHOIR_INLINE void edge_tile(const Scalars& a, const float* panel, int depth, const Results& to, int rows, int cols) {
  alignas(64) float out[kTileRows][C * kLanes] = {};
  for (int r = 0; to.add && r < rows; ++r)
    for (int c = 0; c < cols; ++c) out[r][c] = to.y[r * to.stride + c];
  Set::template tile<kTileRows, C>(a, {panel, C * kLanes, depth}, {out[0], C * kLanes, to.add});
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) to.y[r * to.stride + c] = out[r][c];
}

template <class Set, int C>
CHOIR_INLINE void columns_of(const PanelBlock& block, int p0, int depth, int j0, const float* columns) {
  alignas(64) float panel[kPanelDepth * C * kLanes];
  pack(block, p0, depth, j0, C * kLanes, panel);
  const int width = std::min(C * kLanes, block.cols - j0);
  const auto at = [&](const auto& a, int i) {
    const Results to{block.y + i * block.y_stride + j0, block.y_stride, block.add || p0 > 0};
    const int rows = std::min(kTileRows, block.rows - i);
    if (rows == kTileRows && width == C * kLanes)
      Set::template tile<kTileRows, C>(a, {panel, C * kLanes, depth}, to);
    else
      edge_tile<Set, C>(a, panel, depth, to, rows, width);
  };
  for (int i = 0; i < block.rows; i += kTileRows) {
    fetch_ahead(block, i, p0, depth, j0);
    if (block.a_rows)
      at(rows_from(block, i, p0), i);
    else
      at(PackedScalars<kTileRows>{columns + i / kTileRows * kColumnPanel}, i);
  }
}

template <class Set>
CHOIR_INLINE void panel_body(const PanelBlock& block) {
  constexpr int C = Set::kColumns;
  static_assert(C * kLanes <= kMostColumns);
  alignas(64) float columns[kPanelRows / kTileRows * kColumnPanel];
  for (int p0 = 0; p0 < block.depth; p0 += kPanelDepth) {
    const int depth = std::min(kPanelDepth, block.depth - p0);
    if (!block.a_rows) pack_columns(block, p0, depth, columns);
    int j = 0;
    for (; j + (C - 1) * kLanes < block.cols; j += C * kLanes) columns_of<Set, C>(block, p0, depth, j, columns);
    if constexpr (C > 1)
      for (; j < block.cols; j += kLanes) columns_of<Set, 1>(block, p0, depth, j, columns);
  }
}

void panel_plain(const PanelBlock& block) { panel_body<PlainTile>(block); }
CHOIR_AVX2 void panel_avx2(const PanelBlock& block) { panel_body<Avx2Tile>(block); }
CHOIR_AVX512 void panel_avx512(const PanelBlock& block) { panel_body<Avx512Tile>(block); }

}  // namespace

const Versions<void(const PanelBlock&)> kPanel{panel_plain, panel_avx2, panel_avx512};

}  // namespace choir::kernels
