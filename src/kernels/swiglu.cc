#include "kernels/swiglu.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kRows = 16;  // of a piece

struct Forward {
  Matrix<const float> gate, up;
  Matrix<float> h;
};

struct Backward {
  Matrix<const float> dh;
  Matrix<float> gate, up;
};

// h = g s(g) u  with  s(g) = 1 / (1 + e^-g).
CHOIR_INLINE void forward_body(const Forward& f, int piece) {
  const int cols = f.gate.cols, end = std::min(f.gate.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float *gate = f.gate[t], *up = f.up[t];
    float* h = f.h[t];
    for (int d = 0; d < cols; d += kLanes) {
      const Vec g = load(gate + d, cols - d);
      store(h + d, g * logistic(g) * load(up + d, cols - d), cols - d);
    }
  }
}

// d(g s(g))/dg = s + g s (1 - s), therefore dgate = dh u s (1 + g (1 - s)) and dup = dh g s.
CHOIR_INLINE void backward_body(const Backward& b, int piece) {
  const int cols = b.dh.cols, end = std::min(b.dh.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* dh = b.dh[t];
    float *gate = b.gate[t], *up = b.up[t];
    for (int d = 0; d < cols; d += kLanes) {
      const int left = cols - d;
      const Vec g = load(gate + d, left), u = load(up + d, left), dv = load(dh + d, left), s = logistic(g);
      store(gate + d, dv * u * s * (1.0f + g * (1.0f - s)), left);
      store(up + d, dv * g * s, left);
    }
  }
}

void forward_plain(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX512 void forward_avx512(const Forward& f, int piece) { forward_body(f, piece); }
constexpr Versions<void(const Forward&, int)> forward_rows{forward_plain, forward_avx2, forward_avx512};

void backward_plain(const Backward& b, int piece) { backward_body(b, piece); }
CHOIR_AVX2 void backward_avx2(const Backward& b, int piece) { backward_body(b, piece); }
CHOIR_AVX512 void backward_avx512(const Backward& b, int piece) { backward_body(b, piece); }
constexpr Versions<void(const Backward&, int)> backward_rows{backward_plain, backward_avx2, backward_avx512};

void check(Matrix<const float> a, Matrix<const float> b, Matrix<const float> c) {
  CHOIR_CHECK(a.rows == b.rows && a.cols == b.cols && a.rows == c.rows && a.cols == c.cols,
              std::to_string(a.rows) + " x " + std::to_string(a.cols));
}

}  // namespace

void swiglu_forward(Matrix<const float> gate, Matrix<const float> up, Matrix<float> h, Threads& threads) {
  check(gate, up, h);
  const Forward f{gate, up, h};
  threads.for_each((gate.rows + kRows - 1) / kRows, [&](int piece) { forward_rows(f, piece); });
}

void swiglu_backward(Matrix<const float> dh, Matrix<float> gate, Matrix<float> up, Threads& threads) {
  check(dh, gate, up);
  const Backward b{dh, gate, up};
  threads.for_each((dh.rows + kRows - 1) / kRows, [&](int piece) { backward_rows(b, piece); });
}

}  // namespace choir::kernels
