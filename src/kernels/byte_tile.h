// The tile of packed products with blocked weights, compiled once for each instruction set.
#pragma once

#include "kernels/packed_gemm.h"

namespace choir::kernels {

constexpr int kTilePanels = 2;  // of a tile
constexpr int kTileRows = 8;    // of activations

// Up to kTileRows rows of activations against up to kTilePanels panels: y[r][l] for l < cols.
struct ByteTile {
  const RowBlock* x;       // [blocks][rows]
  const std::byte* panel;  // the first, of packed_formats.h
  ptrdiff_t panel_bytes;   // from one to the next
  float* y;
  ptrdiff_t y_stride;
  int rows, cols, blocks;  // cols at most kTilePanels * kPanelOutputs; blocks of 32 numbers
  bool more;               // to what y holds of the blocks before
};

// An expert's positions begin .. end - 1 are cut into tiles from the first on; this one holds position i. The blocks of
// its rows begin at block `first` times the blocks of a row.
struct TileRows {
  int first, rows;
};

constexpr TileRows tile_of(int i, int begin, int end) {
  const int first = begin + (i - begin) / kTileRows * kTileRows;
  return {first, end - first < kTileRows ? end - first : kTileRows};
}

// Blocks begin .. end - 1, whole units, of the rows of a weight from `row` on, as a part of their panel.
void pack_blocks(const Weight& w, int row, int begin, int end, std::byte* to);

// By the type of the weight; null where it has no blocks or they cannot be packed.
const Versions<void(const ByteTile&)>* byte_tile_for(tensor::DType type);

}  // namespace choir::kernels
