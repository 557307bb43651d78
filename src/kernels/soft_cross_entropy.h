// How far a softmax over the vocabulary is from a teacher's, both softened by a temperature, forward and backward.
#pragma once

#include <cstdint>

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::kernels {

using base::Threads;
using tensor::Matrix;

// What a teacher says about the same rows.
struct SoftTargets {
  Matrix<const float> logits;       // (N,V)
  std::span<const int32_t> target;  // [N] the token that follows; negative: the row is not counted
  float temperature;                // T, above 0
};

// log sum_v exp(z_v / T) of each counted row, which the forward keeps for the backward.
struct SoftSums {
  std::span<float> student, teacher;  // [N]
};

// loss[i] = T^2 sum_v p_v (log p_v - log q_v) in nats with p = softmax(soft.logits / T), q = softmax(logits / T): the
// cross entropy against p, less what no student could save. 0 for rows that are not counted. Rows are independent.
void soft_cross_entropy_forward(Matrix<const float> logits, const SoftTargets& soft, std::span<float> loss,
                                const SoftSums& sums, Threads& threads);

// What each loss weighs: that of the targets, and that of the teacher.
struct MixedScale {
  float hard, soft;
};

// Overwrites logits with the gradient of both losses,
// scale.hard * (softmax(logits) - one_hot) + scale.soft * T (q - p); rows that are not counted get zeros. log_sum is
// that of cross_entropy_forward.
void mixed_cross_entropy_backward(Matrix<float> logits, const SoftTargets& soft, std::span<const float> log_sum,
                                  const SoftSums& sums, MixedScale scale, Threads& threads);

}  // namespace choir::kernels
