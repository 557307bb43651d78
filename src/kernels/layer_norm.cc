#include "kernels/layer_norm.h"

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
  const LayerNormWeights& weights;
  Matrix<float> y;
  const LayerNormSums& sums;
};

struct Backward {
  Matrix<const float> dy;
  const LayerNormSaved& saved;
  const LayerNormGradient& gradient;
};

// y_d = n_d s_d + b_d  with  n_d = (x_d - m) r,  m = mean_j x_j  and  r = 1 / sqrt(mean_j (x_j - m)^2 + epsilon).
CHOIR_INLINE void forward_body(const Forward& f, int piece) {
  const int cols = f.x.cols, end = std::min(f.x.rows, (piece + 1) * kRows);
  const float *scale = f.weights.scale.data(), *bias = f.weights.bias.data();
  for (int t = piece * kRows; t < end; ++t) {
    const float* x = f.x[t];
    float* y = f.y[t];
    Vec total{}, squares{};
    for (int d = 0; d < cols; d += kLanes) total += load(x + d, cols - d);
    const float mean = sum(total) / static_cast<float>(cols);
    for (int d = 0; d < cols; d += kLanes) {
      const Vec v = load(x + d, cols - d, mean) - mean;
      squares += v * v;
    }
    const float r = 1 / std::sqrt(sum(squares) / static_cast<float>(cols) + f.weights.epsilon);
    for (int d = 0; d < cols; d += kLanes) {
      const int left = cols - d;
      store(y + d, (load(x + d, left) - mean) * r * load(scale + d, left) + load(bias + d, left), left);
    }
    f.sums.mean[static_cast<size_t>(t)] = mean;
    f.sums.inverse_deviation[static_cast<size_t>(t)] = r;
  }
}

// With g_d = dy_d s_d: dm = -r sum_j g_j and dr/dx_d = -r^2 n_d / D, therefore
// dx_d += r (g_d - (1/D) sum_j g_j - n_d (1/D) sum_j g_j n_j).
CHOIR_INLINE void backward_x_body(const Backward& b, int piece) {
  const int cols = b.dy.cols, end = std::min(b.dy.rows, (piece + 1) * kRows);
  const float* scale = b.saved.scale.data();
  for (int t = piece * kRows; t < end; ++t) {
    const float *dy = b.dy[t], *x = b.saved.x[t];
    float* dx = b.gradient.dx[t];
    const float mean = b.saved.mean[static_cast<size_t>(t)], r = b.saved.inverse_deviation[static_cast<size_t>(t)];
    Vec total{}, along{};
    for (int d = 0; d < cols; d += kLanes) {
      const Vec g = load(dy + d, cols - d) * load(scale + d, cols - d);
      total += g;
      along += g * ((load(x + d, cols - d) - mean) * r);
    }
    const float push = sum(total) / static_cast<float>(cols), pull = sum(along) / static_cast<float>(cols);
    for (int d = 0; d < cols; d += kLanes) {
      const int left = cols - d;
      const Vec n = (load(x + d, left) - mean) * r;
      const Vec v = load(dy + d, left) * load(scale + d, left) - push - n * pull;
      store(dx + d, load(dx + d, left) + v * r, left);
    }
  }
}

// dscale_d += sum_t dy_td n_td, dbias_d += sum_t dy_td. A piece is sixteen columns over all rows: no two threads add to
// one element.
CHOIR_INLINE void backward_weights_body(const Backward& b, int piece) {
  const int d = piece * kLanes, left = b.dy.cols - d;
  Vec scale{}, bias{};
  for (int t = 0; t < b.dy.rows; ++t) {
    const auto row = static_cast<size_t>(t);
    const Vec dy = load(b.dy[t] + d, left);
    scale += dy * ((load(b.saved.x[t] + d, left) - b.saved.mean[row]) * b.saved.inverse_deviation[row]);
    bias += dy;
  }
  float *dscale = b.gradient.dscale.data() + d, *dbias = b.gradient.dbias.data() + d;
  store(dscale, load(dscale, left) + scale, left);
  store(dbias, load(dbias, left) + bias, left);
}

void forward_plain(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX512 void forward_avx512(const Forward& f, int piece) { forward_body(f, piece); }
constexpr Versions<void(const Forward&, int)> forward_rows{forward_plain, forward_avx2, forward_avx512};

void backward_x_plain(const Backward& b, int piece) { backward_x_body(b, piece); }
CHOIR_AVX2 void backward_x_avx2(const Backward& b, int piece) { backward_x_body(b, piece); }
CHOIR_AVX512 void backward_x_avx512(const Backward& b, int piece) { backward_x_body(b, piece); }
constexpr Versions<void(const Backward&, int)> backward_x{backward_x_plain, backward_x_avx2, backward_x_avx512};

void backward_weights_plain(const Backward& b, int piece) { backward_weights_body(b, piece); }
CHOIR_AVX2 void backward_weights_avx2(const Backward& b, int piece) { backward_weights_body(b, piece); }
CHOIR_AVX512 void backward_weights_avx512(const Backward& b, int piece) { backward_weights_body(b, piece); }
constexpr Versions<void(const Backward&, int)> backward_weights{backward_weights_plain, backward_weights_avx2,
                                                                backward_weights_avx512};

void check(Matrix<const float> x, Matrix<const float> y, std::initializer_list<size_t> of_columns,
           std::initializer_list<size_t> of_rows) {
  const auto all = [](std::initializer_list<size_t> sizes, int size) {
    return std::ranges::all_of(sizes, [&](size_t s) { return s == static_cast<size_t>(size); });
  };
  CHOIR_CHECK(x.rows == y.rows && x.cols == y.cols && all(of_columns, x.cols) && all(of_rows, x.rows),
              std::to_string(x.rows) + " x " + std::to_string(x.cols));
}

}  // namespace

void layer_norm_forward(Matrix<const float> x, const LayerNormWeights& weights, Matrix<float> y,
                        const LayerNormSums& sums, Threads& threads) {
  check(x, y, {weights.scale.size(), weights.bias.size()}, {sums.mean.size(), sums.inverse_deviation.size()});
  const Forward f{x, weights, y, sums};
  threads.for_each((x.rows + kRows - 1) / kRows, [&](int piece) { forward_rows(f, piece); });
}

void layer_norm_backward(Matrix<const float> dy, const LayerNormSaved& saved, const LayerNormGradient& gradient,
                         Threads& threads) {
  check(dy, saved.x, {saved.scale.size()}, {saved.mean.size(), saved.inverse_deviation.size()});
  check(dy, gradient.dx, {gradient.dscale.size(), gradient.dbias.size()}, {});
  const Backward b{dy, saved, gradient};
  threads.for_each((dy.rows + kRows - 1) / kRows, [&](int piece) { backward_x(b, piece); });
  threads.for_each((dy.cols + kLanes - 1) / kLanes, [&](int piece) { backward_weights(b, piece); });
}

}  // namespace choir::kernels
