// Products of float rows with the transpose of a weight in the format of its file, in many groups at once.
#pragma once

#include "kernels/grouped_gemm.h"

namespace choir::kernels {

// y[i] = w[e]^T x[row[i]] for every position i of group e, whose weight has as many rows as x has columns:
// x (N,O), w[e] (O,I), y (M,I). Reads the weights as they lie and gathers while it multiplies. Every sum runs over the
// rows of the weight in order: an element depends on its row of x and its column of w alone.
void transposed_forward(const Groups& groups, Matrix<const float> x, std::span<const Weight> w, Matrix<float> y,
                        Threads& threads);

}  // namespace choir::kernels
