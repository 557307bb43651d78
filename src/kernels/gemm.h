// Matrix products of float activations with weights in the format of their file.
//
// An element of y = x W^T depends on its row of x and its row of W alone, whatever the other rows, the tile and the
// number of threads; how its sum over k is ordered is the caller's choice.
#pragma once

#include "base/threads.h"
#include "kernels/isa.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;
using tensor::Weight;

enum class Write { kSet, kAdd };

// kLanes: sixteen lanes, lane l taking k = l, l+16, ...; reads weights of any format as they lie, fast for few rows.
// kPacked: k in order; packs float weights on the way, which pays from some dozens of rows on: training.
// kRounded: the same of both operands rounded to BF16, two products a step, where that is faster than floats
// (Isa::kBf16); elsewhere kPacked.
enum class Sums { kLanes, kPacked, kRounded };

// Where a product for a gradient goes, and how it is summed; kLanes counts as kPacked.
struct Target {
  Write write;
  Sums sums;

  Target(Write w, Sums s = Sums::kPacked) : write(w), sums(s) {}
};

// y (N,O) = x (N,I) w (O,I)^T. The linear map of a layer.
void gemm_forward(Matrix<const float> x, const Weight& w, Matrix<float> y, Threads& threads, Sums sums = Sums::kLanes);

// dx (N,I) = or += dy (N,O) w (O,I).
void gemm_backward_input(Matrix<const float> dy, Matrix<const float> w, Matrix<float> dx, Target target,
                         Threads& threads);

// dw (O,I) += dy (N,O)^T x (N,I), in one order of rows whatever the number of threads.
void gemm_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Threads& threads,
                          Sums sums = Sums::kPacked);

}  // namespace choir::kernels
