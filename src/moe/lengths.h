// Lengths of rows, for cosines.
#pragma once

#include "base/arena.h"
#include "base/threads.h"
#include "tensor/view.h"

namespace choir::moe {

// 1 / |row| of each row, 0 for a row of zeros; a list of that frame.
std::span<const float> inverse_lengths(tensor::Matrix<const float> rows, base::Frame& frame, base::Threads& threads);
std::span<const float> inverse_lengths(const tensor::Weight& rows, base::Frame& frame, base::Threads& threads);

}  // namespace choir::moe
