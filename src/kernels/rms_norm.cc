#include "kernels/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kRows = 16;  // of a piece

struct Forward {
  Matrix<const float> x;
  std::span<const float> scale;
  float epsilon;
  Matrix<float> y;
  std::span<float> inverse_rms;
};

struct Backward {
  Matrix<const float> dy;
  RmsNormSaved saved;
  Matrix<float> dx;
  std::span<float> dscale;
};

// y_d = x_d r s_d  with  r = 1 / sqrt(mean_j x_j^2 + epsilon).
CHOIR_INLINE void forward_body(const Forward& f, int piece) {
  const int cols = f.x.cols, end = std::min(f.x.rows, (piece + 1) * kRows);
  const float* scale = f.scale.data();
  for (int t = piece * kRows; t < end; ++t) {
    const float* x = f.x[t];
    float* y = f.y[t];
    Vec squares{};
    for (int d = 0; d < cols; d += kLanes) {
      const Vec v = load(x + d, cols - d);
      squares += v * v;
    }
    const float r = 1 / std::sqrt(sum(squares) / static_cast<float>(cols) + f.epsilon);
    for (int d = 0; d < cols; d += kLanes)
      store(y + d, load(x + d, cols - d) * r * load(scale + d, cols - d), cols - d);
    f.inverse_rms[static_cast<size_t>(t)] = r;
  }
}

// r sees the whole row: dr/dx_d = -r^3 x_d / D, therefore dx_d += r (dy_d s_d - x_d (r^2 / D) sum_j dy_j s_j x_j).
CHOIR_INLINE void backward_x_body(const Backward& b, int piece) {
  const int cols = b.dy.cols, end = std::min(b.dy.rows, (piece + 1) * kRows);
  const float* scale = b.saved.scale.data();
  for (int t = piece * kRows; t < end; ++t) {
    const float *dy = b.dy[t], *x = b.saved.x[t];
    float* dx = b.dx[t];
    const float r = b.saved.inverse_rms[static_cast<size_t>(t)];
    Vec dot{};
    for (int d = 0; d < cols; d += kLanes)
      dot += load(dy + d, cols - d) * load(scale + d, cols - d) * load(x + d, cols - d);
    const float pull = sum(dot) * r * r / static_cast<float>(cols);
    for (int d = 0; d < cols; d += kLanes) {
      const int left = cols - d;
      const Vec v = load(dy + d, left) * load(scale + d, left) - load(x + d, left) * pull;
      store(dx + d, load(dx + d, left) + v * r, left);
    }
  }
}

// dscale_d += sum_t dy_td x_td r_t. A piece is sixteen columns over all rows: no two threads add to one element.
CHOIR_INLINE void backward_scale_body(const Backward& b, int piece) {
  const int d = piece * kLanes, left = b.dy.cols - d;
  Vec total{};
  for (int t = 0; t < b.dy.rows; ++t)
    total += load(b.dy[t] + d, left) * load(b.saved.x[t] + d, left) * b.saved.inverse_rms[static_cast<size_t>(t)];
  float* dscale = b.dscale.data() + d;
  store(dscale, load(dscale, left) + total, left);
}

void forward_plain(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX512 void forward_avx512(const Forward& f, int piece) { forward_body(f, piece); }
constexpr Versions<void(const Forward&, int)> forward_rows{forward_plain, forward_avx2, forward_avx512};

void backward_x_plain(const Backward& b, int piece) { backward_x_body(b, piece); }
CHOIR_AVX2 void backward_x_avx2(const Backward& b, int piece) { backward_x_body(b, piece); }
CHOIR_AVX512 void backward_x_avx512(const Backward& b, int piece) { backward_x_body(b, piece); }
constexpr Versions<void(const Backward&, int)> backward_x{backward_x_plain, backward_x_avx2, backward_x_avx512};

void backward_scale_plain(const Backward& b, int piece) { backward_scale_body(b, piece); }
CHOIR_AVX2 void backward_scale_avx2(const Backward& b, int piece) { backward_scale_body(b, piece); }
CHOIR_AVX512 void backward_scale_avx512(const Backward& b, int piece) { backward_scale_body(b, piece); }
constexpr Versions<void(const Backward&, int)> backward_scale{backward_scale_plain, backward_scale_avx2,
                                                              backward_scale_avx512};

void check(Matrix<const float> x, Matrix<const float> y, size_t scale, size_t inverse_rms) {
  CHOIR_CHECK(x.rows == y.rows && x.cols == y.cols && scale == static_cast<size_t>(x.cols) &&
                  inverse_rms == static_cast<size_t>(x.rows),
              std::to_string(x.rows) + " x " + std::to_string(x.cols));
}

}  // namespace

void rms_norm_forward(Matrix<const float> x, std::span<const float> scale, float epsilon, Matrix<float> y,
                      std::span<float> inverse_rms, Threads& threads) {
  check(x, y, scale.size(), inverse_rms.size());
  const Forward f{x, scale, epsilon, y, inverse_rms};
  threads.for_each((x.rows + kRows - 1) / kRows, [&](int piece) { forward_rows(f, piece); });
}

void rms_norm_backward(Matrix<const float> dy, const RmsNormSaved& saved, Matrix<float> dx, std::span<float> dscale,
                       Threads& threads) {
  check(dy, saved.x, saved.scale.size(), saved.inverse_rms.size());
  check(dy, dx, dscale.size(), saved.inverse_rms.size());
  const Backward b{dy, saved, dx, dscale};
  threads.for_each((dy.rows + kRows - 1) / kRows, [&](int piece) { backward_x(b, piece); });
  threads.for_each((dy.cols + kLanes - 1) / kLanes, [&](int piece) { backward_scale(b, piece); });
}

}  // namespace choir::kernels
