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
  Activation activation;
};

struct Backward {
  Matrix<const float> dh;
  Matrix<float> gate, up;
  Activation activation;
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

// All bits of the lanes that hold a NaN.
CHOIR_INLINE IntVec nans(Vec v) { return (0x7f800000 - (reinterpret_cast<IntVec>(v) & 0x7fffffff)) >> 31; }

// min(v, limit). A NaN stays one: clamping must not hide it.
CHOIR_INLINE Vec at_most(Vec v, float limit) {
  const Vec least = select(negative(limit - v), broadcast(limit), v);
  return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(least) | nans(v));
}

CHOIR_INLINE Vec within(Vec v, float limit) { return -at_most(-at_most(v, limit), limit); }

// h = (u + 1) g s(alpha g) of the clamped g and u.
CHOIR_INLINE void clamped_forward_body(const Forward& f, int piece) {
  const auto [limit, alpha] = f.activation;
  const int cols = f.gate.cols, end = std::min(f.gate.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float *gate = f.gate[t], *up = f.up[t];
    float* h = f.h[t];
    for (int d = 0; d < cols; d += kLanes) {
      const Vec g = at_most(load(gate + d, cols - d), limit), u = within(load(up + d, cols - d), limit);
      store(h + d, (u + 1.0f) * g * logistic(alpha * g), cols - d);
    }
  }
}

// dgate = dh (u + 1) s (1 + alpha g (1 - s)) where gate <= limit, dup = dh g s where |up| <= limit, else 0.
CHOIR_INLINE void clamped_backward_body(const Backward& b, int piece) {
  const auto [limit, alpha] = b.activation;
  const int cols = b.dh.cols, end = std::min(b.dh.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* dh = b.dh[t];
    float *gate = b.gate[t], *up = b.up[t];
    for (int d = 0; d < cols; d += kLanes) {
      const int left = cols - d;
      const Vec raw_g = load(gate + d, left), raw_u = load(up + d, left), dv = load(dh + d, left);
      const Vec g = at_most(raw_g, limit), u = within(raw_u, limit), s = logistic(alpha * g);
      const IntVec g_beyond = negative(limit - raw_g) & ~nans(raw_g);
      const IntVec u_beyond = (negative(limit - raw_u) | negative(limit + raw_u)) & ~nans(raw_u);
      store(gate + d, select(g_beyond, Vec{}, dv * (u + 1.0f) * s * (1.0f + alpha * g * (1.0f - s))), left);
      store(up + d, select(u_beyond, Vec{}, dv * g * s), left);
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

void clamped_forward_plain(const Forward& f, int piece) { clamped_forward_body(f, piece); }
CHOIR_AVX2 void clamped_forward_avx2(const Forward& f, int piece) { clamped_forward_body(f, piece); }
CHOIR_AVX512 void clamped_forward_avx512(const Forward& f, int piece) { clamped_forward_body(f, piece); }
constexpr Versions<void(const Forward&, int)> clamped_forward_rows{clamped_forward_plain, clamped_forward_avx2,
                                                                   clamped_forward_avx512};

void clamped_backward_plain(const Backward& b, int piece) { clamped_backward_body(b, piece); }
CHOIR_AVX2 void clamped_backward_avx2(const Backward& b, int piece) { clamped_backward_body(b, piece); }
CHOIR_AVX512 void clamped_backward_avx512(const Backward& b, int piece) { clamped_backward_body(b, piece); }
constexpr Versions<void(const Backward&, int)> clamped_backward_rows{clamped_backward_plain, clamped_backward_avx2,
                                                                     clamped_backward_avx512};

void check(Matrix<const float> a, Matrix<const float> b, Matrix<const float> c) {
  CHOIR_CHECK(a.rows == b.rows && a.cols == b.cols && a.rows == c.rows && a.cols == c.cols,
              std::to_string(a.rows) + " x " + std::to_string(a.cols));
}

}  // namespace

void swiglu_forward(Matrix<const float> gate, Matrix<const float> up, Matrix<float> h, Threads& threads,
                    Activation activation) {
  check(gate, up, h);
  const Forward f{gate, up, h, activation};
  const auto& rows = activation.limit > 0 ? clamped_forward_rows : forward_rows;
  threads.for_each((gate.rows + kRows - 1) / kRows, [&](int piece) { rows(f, piece); });
}

void swiglu_backward(Matrix<const float> dh, Matrix<float> gate, Matrix<float> up, Threads& threads,
                     Activation activation) {
  check(dh, gate, up);
  const Backward b{dh, gate, up, activation};
  const auto& rows = activation.limit > 0 ? clamped_backward_rows : backward_rows;
  threads.for_each((dh.rows + kRows - 1) / kRows, [&](int piece) { rows(b, piece); });
}

}  // namespace choir::kernels
