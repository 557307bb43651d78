// Functions of one logit; kernels/sigmoid.h has the first for rows.
#pragma once

#include <algorithm>
#include <cmath>

namespace choir::moe {

// 1 / (1 + e^-z)
inline float logistic(float z) { return 1 / (1 + std::exp(-z)); }

// log(1 + e^z)
inline float softplus(float z) { return std::max(z, 0.0f) + std::log1p(std::exp(-std::abs(z))); }

// sqrt(log(1 + e^z)); far below 0 that is e^(z/2), which outlives e^z.
inline float sqrt_softplus(float z) { return z < -20 ? std::exp(z / 2) : std::sqrt(softplus(z)); }

}  // namespace choir::moe
