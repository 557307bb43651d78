// 1 / (1 + e^-z) of one number; kernels/sigmoid.h has it for rows.
#pragma once

#include <cmath>

namespace choir::moe {

inline float logistic(float z) { return 1 / (1 + std::exp(-z)); }

}  // namespace choir::moe
