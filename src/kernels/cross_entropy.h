// Negative log-likelihood of target tokens under a softmax over the vocabulary, forward and backward.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// loss[i] = log sum_v exp(logits[i][v]) - logits[i][target[i]] in nats; log_sum[i] is the first term. A negative target
// means "not counted": its loss is 0. Rows are independent.
void cross_entropy_forward(Matrix<const float> logits, std::span<const int32_t> target, std::span<float> loss,
                           std::span<float> log_sum, Threads& threads);

// Overwrites logits with scale * d loss / d logits = scale * (softmax - one_hot); rows without a target get zeros.
void cross_entropy_backward(Matrix<float> logits, std::span<const int32_t> target, std::span<const float> log_sum,
                            float scale, Threads& threads);

}  // namespace choir::kernels
