// How much work a kernel is, for operators to say (base/profile.h). Every function counts operands and results once.
#pragma once

#include "base/profile.h"
#include "kernels/attention.h"
#include "kernels/grouped_gemm.h"

namespace choir::kernels {

using base::Work;

// Rows that are read or written: passes * rows * cols floats.
Work moved(int rows, int cols, int passes);

// A linear map of so many rows; a bias without data is none. Packed blocks are multiplied as bytes. The backward is
// that to its input and that to its weight.
using WorkOfProduct = Work(int rows, const Weight& w, const Weight& bias);
WorkOfProduct product_work, product_backward_work;

// The same for experts; `bias` is empty or one for each, and experts without rows are not read.
using WorkOfExperts = Work(std::span<const int32_t> offset, std::span<const Weight> w, std::span<const Weight> bias);
WorkOfExperts grouped_work, grouped_backward_work;

// Scores and their sums of the pairs of a query and a key that it sees; of the keys and values those that one sees.
Work attention_work(const AttentionInput& in);
Work attention_backward_work(const AttentionInput& in);

}  // namespace choir::kernels
