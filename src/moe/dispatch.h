// Rows from tokens to edges and back. The backward of one is the other, over the same Plan.
#pragma once

#include "base/threads.h"
#include "moe/plan.h"
#include "tensor/view.h"

namespace choir::moe {

using base::Threads;
using tensor::Matrix;

enum class Weighting { kPlain, kByPlan };  // add rows as they are, or times their edge's weight
enum class Into { kSet, kAdd };

// rows[i] (M,D) = x[token_i] (N,D).
void gather(const Plan& plan, Matrix<const float> x, Matrix<float> rows, Threads& threads);

// y[t] (N,D) = or += the sum over the edges of t, in slot order, of rows[i]. A token without edges gets 0.
void combine(const Plan& plan, Matrix<const float> rows, Weighting weighting, Into into, Matrix<float> y,
             Threads& threads);

}  // namespace choir::moe
