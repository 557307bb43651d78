// Attention as products of blocks, for whole sequences: training.
#pragma once

#include "kernels/attention.h"

namespace choir::kernels {

// attention_forward for sequences that start at position 0 with their keys in the call. The sums over channels and keys
// run in order instead of in lanes.
void attention_forward_packed(const AttentionInput& in, Matrix<float> out, Matrix<float> log_sum, Threads& threads);

}  // namespace choir::kernels
