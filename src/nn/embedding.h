// Token ids to rows of the embedding table, forward and backward.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::nn {

using base::Threads;
using tensor::Matrix;
using tensor::Weight;

// out (N,D): row i is row ids[i] of the table (V,D), widened to float. Ids must be in range.
void embedding_forward(std::span<const int32_t> ids, const Weight& table, Matrix<float> out);

// Adds row i of dout to row ids[i] of dtable, tokens in order whatever the number of threads.
void embedding_backward(std::span<const int32_t> ids, Matrix<const float> dout, Matrix<float> dtable, Threads& threads);

}  // namespace choir::nn
