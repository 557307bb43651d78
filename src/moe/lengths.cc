#include "moe/lengths.h"

#include <cmath>

#include "kernels/block_sums.h"
#include "tensor/buffer.h"

namespace choir::moe {

std::vector<float> inverse_lengths(tensor::Matrix<const float> rows, base::Threads& threads) {
  const auto n = static_cast<size_t>(rows.rows);
  const tensor::Buffer<float> sums(n), squares(n);
  const int32_t bound[] = {0, rows.cols};
  kernels::block_sums_forward(rows, bound, sums.matrix(rows.rows, 1), squares.span(), threads);
  std::vector<float> inverse;
  for (const float square : squares.span()) inverse.push_back(square > 0 ? 1 / std::sqrt(square) : 0);
  return inverse;
}

std::vector<float> inverse_lengths(const tensor::Weight& rows, base::Threads& threads) {
  const tensor::Buffer<float> wide(rows.size());
  tensor::widen(rows, wide.span());
  return inverse_lengths(wide.matrix(rows.rows, rows.cols), threads);
}

}  // namespace choir::moe
