// Matrix products in which each expert multiplies its own rows by its own weight, all experts in one launch.
#pragma once

#include <cstdint>

#include "kernels/gemm.h"

namespace choir::kernels {

// Expert e owns positions offset[e] .. offset[e+1]-1. Position i reads row row[i] of the token matrix; an empty `row`
// means that position i is row i. offset has one entry more than there are experts.
struct Groups {
  std::span<const int32_t> offset;
  std::span<const int32_t> row;

  int count() const { return static_cast<int>(offset.size()) - 1; }
  int source(int position) const { return row.empty() ? position : row[static_cast<size_t>(position)]; }
};

// y[i] = w[e] x[row[i]] for every position i of expert e: x (N, at least I_e), w[e] (O_e,I_e), y (M, at least O_e).
// Gathers while it multiplies. Sums as gemm_forward does: a position's result is that of a call of its own.
void grouped_forward(const Groups& groups, Matrix<const float> x, std::span<const Weight> w, Matrix<float> y,
                     Threads& threads, Sums sums = Sums::kLanes);

// dx[i] = or += dy[i] w[e] for every position: dy (M, at least O_e), w[e] (O_e,I), dx (M,I). No gather: dx has a row
// for each position.
void grouped_backward_input(const Groups& groups, Matrix<const float> dy, std::span<const Matrix<const float>> w,
                            Matrix<float> dx, Target target, Threads& threads);

// dw[e] (O_e,I) += sum over positions i of expert e, in ascending order, of dy[i]^T x[row[i]].
void grouped_backward_weight(const Groups& groups, Matrix<const float> dy, Matrix<const float> x,
                             std::span<const Matrix<float>> dw, Threads& threads, Sums sums = Sums::kPacked);

}  // namespace choir::kernels
