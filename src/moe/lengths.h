// Lengths of rows, for cosines.
#pragma once

#include <vector>

#include "base/threads.h"
#include "tensor/view.h"

namespace choir::moe {

// 1 / |row| of each row, 0 for a row of zeros.
std::vector<float> inverse_lengths(tensor::Matrix<const float> rows, base::Threads& threads);
std::vector<float> inverse_lengths(const tensor::Weight& rows, base::Threads& threads);

}  // namespace choir::moe
