// The tile of products that read both operands as they lie, compiled once for each instruction set.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

// Rows of x against rows of a weight: y[r][c] = x[r] . w[c]. Pointers to the rows of x, so that a gather is free.
struct DotBlock {
  const float* const* x;  // [rows]
  const void* w;          // first row of the weight, in the version's type
  ptrdiff_t w_stride;     // numbers; of a type with blocks, whole blocks
  float* y;               // first row of the result
  ptrdiff_t y_stride;
  int rows, cols, depth;
};

// By the type of the weight: F32, BF16, F16, Q8_0, Q4_0, Q4_K, Q6_K or MXFP4. CHECKs that it is one of them. A weight
// gives the same result, bit for bit, as its numbers in F32.
const Versions<void(const DotBlock&)>& dot_for(tensor::DType type);

}  // namespace choir::kernels
