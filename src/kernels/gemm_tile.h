// The two tiles that every matrix product is made of, compiled once for each instruction set.
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

// y[i][j] (+)= sum over p, in order, of a(i,p) b[p][j], with a(i,p) at a + i * a_row + p * a_step and rows of b by
// pointer.
struct OuterBlock {
  const float* a;
  ptrdiff_t a_row, a_step;
  const float* const* b;  // [depth]
  float* y;
  ptrdiff_t y_stride;
  int rows, cols, depth;
  bool add;
};

// By the type of the weight.
extern const Versions<void(const DotBlock&)> kDotF32, kDotBF16, kDotF16;
extern const Versions<void(const OuterBlock&)> kOuter;

}  // namespace choir::kernels
