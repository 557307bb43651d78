#include "nn/linear.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace choir::nn {
namespace {

void add_to_rows(std::span<const float> bias, Matrix<float> y, Threads& threads) {
  constexpr int kRows = 64;
  threads.for_each((y.rows + kRows - 1) / kRows, [&](int piece) {
    for (int i = piece * kRows; i < std::min(y.rows, (piece + 1) * kRows); ++i) {
      float* row = y[i];
      for (int c = 0; c < y.cols; ++c) row[c] += bias[static_cast<size_t>(c)];
    }
  });
}

// Each piece owns some columns of every row, so that no two threads add to one number.
void add_rows(Matrix<const float> dy, std::span<float> sums, Threads& threads) {
  constexpr int kCols = 64;
  threads.for_each((dy.cols + kCols - 1) / kCols, [&](int piece) {
    const int begin = piece * kCols, count = std::min(kCols, dy.cols - begin);
    float total[kCols] = {};
    for (int i = 0; i < dy.rows; ++i)
      for (int c = 0; c < count; ++c) total[c] += dy[i][begin + c];
    for (int c = 0; c < count; ++c) sums[static_cast<size_t>(begin + c)] += total[c];
  });
}

}  // namespace

void linear_forward(Matrix<const float> x, const Weight& w, const Weight& bias, Matrix<float> y, Threads& threads,
                    kernels::Sums sums) {
  kernels::gemm_forward(x, w, y, threads, sums);
  if (!bias.data) return;
  CHOIR_CHECK(bias.size() == static_cast<size_t>(y.cols), std::to_string(bias.size()) + " numbers of a bias");
  add_to_rows(tensor::as_vector(bias), y, threads);
}

void linear_backward_weight(Matrix<const float> dy, Matrix<const float> x, Matrix<float> dw, Matrix<float> dbias,
                            Threads& threads) {
  kernels::gemm_backward_weight(dy, x, dw, threads);
  if (!dbias.data) return;
  CHOIR_CHECK(dbias.rows == 1 && dbias.cols == dy.cols, std::to_string(dbias.cols) + " numbers of a bias");
  add_rows(dy, dbias.row(0), threads);
}

}  // namespace choir::nn
