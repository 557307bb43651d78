// The tile of packed products with weights of one number at a time, compiled once for each instruction set.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

constexpr int kLanePanel = 8;  // rows of the weight
constexpr int kLaneUnit = 64;  // bytes

// How many numbers of a row lie together, in one unit: sixteen of four bytes, thirty-two of two.
constexpr int unit_numbers(size_t number_bytes) { return kLaneUnit / static_cast<int>(number_bytes); }

// Where number k of a unit lies: two bytes each, k and k + 16 make one 32-bit word, so that both widen without moving
// between lanes.
constexpr int place_in_unit(int k, size_t number_bytes) { return number_bytes == 2 ? k % kLanes * 2 + k / kLanes : k; }

// Rows of activations against one panel: y[r][c] for c < cols. A panel is the first units of its rows, then the second
// ones, and so on; zeros fill it up. The sum of an element runs in sixteen lanes in the order of the dot tile
// (gemm_tile.h), so it is the same, bit for bit.
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
