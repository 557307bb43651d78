// How much work a kernel is, for operators to say (base/profile.h). Every function counts operands and results once.
#pragma once

#include "base/profile.h"
#include "kernels/attention.h"
#include "kernels/grouped_gemm.h"

namespace choir::kernels {

using base::Work;

// Rows that are read or written: passes * rows * cols floats.
Work moved(int rows, int cols, int passes);

// A linear map of so many rows; a bias without data is none. The backward is that to its input and that to its weight.
Work product_work(int rows, const Weight& w, const Weight& bias);
Work product_backward_work(int rows, const Weight& w, const Weight& bias);

// The same for experts; `bias` is empty or one for each, and experts without rows are not read.
Work grouped_work(std::span<const int32_t> offset, std::span<const Weight> w, std::span<const Weight> bias);
Work grouped_backward_work(std::span<const int32_t> offset, std::span<const Weight> w, std::span<const Weight> bias);

// Scores and their sums of the pairs of a query and a key that it sees; of the keys and values those that one sees.
Work attention_work(const AttentionInput& in);
Work attention_backward_work(const AttentionInput& in);

}  // namespace choir::kernels
