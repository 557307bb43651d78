// The tile of packed products with weights of one number at a time, compiled once for each instruction set.
#pragma once

#include "kernels/byte_tile.h"

namespace choir::kernels {

// Up to kTileRows rows of activations against up to kTilePanels panels of kPanelOutputs rows of the weight each
// (byte_tile.h, packed_formats.h): y[r][l] for l < cols. A panel is words of four bytes: the first of its rows side by
// side, then the second ones. A word is one number of four bytes or two of two, the earlier one in its lower half.
//
// An element is the sum over k, one multiply-add after the other. Versions that take the instruction for products of
// BF16 read rows that were rounded to that, two numbers in a word, and add the two products in a step of its own.
struct NumberTile {
  const float* const* x;         // [rows]
  const uint32_t* const* pairs;  // [rows], or null
  const std::byte* panel;        // the first
  ptrdiff_t panel_bytes;         // from one to the next
  float* y;
  ptrdiff_t y_stride;
  int rows, cols, depth;
  bool more;  // to what y holds of the numbers before
};

constexpr int kWordBytes = 4;

// The numbers begin .. end - 1, whole words but at the end of a row, of the rows of a weight from `row` on, as a part
// of their panel.
void pack_numbers(const Weight& w, int row, int begin, int end, std::byte* to);

// By the type of the weight, F32, BF16 or F16; else null.
const Versions<void(const NumberTile&)>* number_tile_for(tensor::DType type);

}  // namespace choir::kernels
