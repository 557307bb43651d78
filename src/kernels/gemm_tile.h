// The tile of products that read both operands as they lie, compiled once for each instruction set.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

// Rows of x against rows of a weight: y[r][c] = x[r] . w[c]. Pointers to the rows of x, so that a gather is free.
struct DotBlock {
  const float* const* x;  // [rows]
  const void* w;          // first row of the weight, elements of the version's type
  ptrdiff_t w_stride;     // elements
  float* y;               // first row of the result
  ptrdiff_t y_stride;
  int rows, cols, depth;
};

// By the type of the weight.
extern const Versions<void(const DotBlock&)> kDotF32, kDotBF16, kDotF16;

}  // namespace choir::kernels
