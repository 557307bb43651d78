#include "kernels/weigh_rows.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kRows = 32;  // of one piece

struct Rows {
  std::span<const float> weight;
  Matrix<float> dy, h;
  std::span<float> dweight;
};

CHOIR_INLINE void backward_body(const Rows& rows, int piece) {
  const int cols = rows.h.cols, end = std::min(rows.h.rows, (piece + 1) * kRows);
  for (int i = piece * kRows; i < end; ++i) {
    float *dy = rows.dy[i], *h = rows.h[i];
    const float weight = rows.weight[i];
    Vec total{};
    for (int f = 0; f < cols; f += kLanes) {
      const Vec a = load(dy + f, cols - f), b = load(h + f, cols - f);
      total += a * b;
      store(dy + f, a * weight, cols - f);
      store(h + f, b * weight, cols - f);
    }
    rows.dweight[i] = sum(total);
  }
}

void backward_plain(const Rows& rows, int piece) { backward_body(rows, piece); }
CHOIR_AVX2 void backward_avx2(const Rows& rows, int piece) { backward_body(rows, piece); }
CHOIR_AVX512 void backward_avx512(const Rows& rows, int piece) { backward_body(rows, piece); }
constexpr Versions<void(const Rows&, int)> backward_rows{backward_plain, backward_avx2, backward_avx512};

}  // namespace

void weigh_rows_backward(std::span<const float> weight, Matrix<float> dy, Matrix<float> h, std::span<float> dweight,
                         Threads& threads) {
  const auto rows = static_cast<size_t>(h.rows);
  CHOIR_CHECK(dy.rows == h.rows && dy.cols == h.cols && weight.size() >= rows && dweight.size() >= rows,
              std::to_string(dy.rows) + " x " + std::to_string(dy.cols));
  const Rows all{weight, dy, h, dweight};
  threads.for_each((h.rows + kRows - 1) / kRows, [&](int piece) { backward_rows(all, piece); });
}

}  // namespace choir::kernels
