#include "moe/lengths.h"

#include <cmath>

#include "kernels/block_sums.h"

namespace choir::moe {

std::span<const float> inverse_lengths(tensor::Matrix<const float> rows, base::Frame& frame, base::Threads& threads) {
  const auto n = static_cast<size_t>(rows.rows);
  const std::span<float> sums = frame.list<float>(n), lengths = frame.list<float>(n);  // the latter squared at first
  const int32_t bound[] = {0, rows.cols};
  kernels::block_sums_forward(rows, bound, {sums.data(), rows.rows, 1}, lengths, threads);
  for (float& length : lengths) length = length > 0 ? 1 / std::sqrt(length) : 0;
  return lengths;
}

std::span<const float> inverse_lengths(const tensor::Weight& rows, base::Frame& frame, base::Threads& threads) {
  const std::span<float> wide = frame.list<float>(rows.size());
  tensor::widen(rows, wide);
  return inverse_lengths(tensor::Matrix<const float>(wide.data(), rows.rows, rows.cols), frame, threads);
}

}  // namespace choir::moe
