// The tile of packed products with weights of one number at a time, compiled once for each instruction set.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

constexpr int kLanePanel = 8;  // rows of the weight

// Rows of activations against one panel: y[r][c] for c < cols. In the panel the numbers k .. k + 15 of row 0 come
// first, then those of row 1, up to row 7; then the next sixteen; zeros fill it up. The sum of an element runs in
// sixteen lanes in the order of the dot tile (gemm_tile.h), so it is the same, bit for bit.
struct LaneTile {
  const float* const* x;  // [rows]
  const std::byte* panel;
  float* y;
  ptrdiff_t y_stride;
  int rows, cols, depth;  // cols at most kLanePanel
};

// By the type of the weight, F32, BF16 or F16; else null.
const Versions<void(const LaneTile&)>* lane_tile_for(tensor::DType type);

}  // namespace choir::kernels
