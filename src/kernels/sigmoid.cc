#include "kernels/sigmoid.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kRows = 64;  // of one piece

struct Call {
  Matrix<const float> z;
  Matrix<float> out;
};

CHOIR_INLINE void forward_body(const Call& call, int t) {
  const float* z = call.z[t];
  const int cols = call.z.cols;
  for (int e = 0; e < cols; e += kLanes) store(call.out[t] + e, logistic(load(z + e, cols - e)), cols - e);
}

// With m = min(0, largest z) and u = e^(min(z,0) - m) / (1 + e^-|z|), which is s e^-m: p = u / sum u. No exponent is
// positive, and the largest u is at least 1/2.
CHOIR_INLINE void shares_body(const Call& call, int t) {
  const float* z = call.z[t];
  float* p = call.out[t];
  const int cols = call.z.cols;
  Vec peaks = broadcast(-kInfinity);
  for (int e = 0; e < cols; e += kLanes) peaks = max(load(z + e, cols - e, -kInfinity), peaks);
  const float peak = std::min(0.0f, largest(peaks));
  Vec total{};
  for (int e = 0; e < cols; e += kLanes) {
    const Vec v = load(z + e, cols - e, -kInfinity);
    const Vec u = exp(-max(-v, Vec{}) - peak) / (1.0f + exp(-max(v, -v)));
    store(p + e, u, cols - e);
    total += u;
  }
  const float share = 1 / sum(total);
  for (int e = 0; e < cols; e += kLanes) store(p + e, load(p + e, cols - e) * share, cols - e);
}

void forward_plain(const Call& call, int t) { forward_body(call, t); }
CHOIR_AVX2 void forward_avx2(const Call& call, int t) { forward_body(call, t); }
CHOIR_AVX512 void forward_avx512(const Call& call, int t) { forward_body(call, t); }
constexpr Versions<void(const Call&, int)> forward_row{forward_plain, forward_avx2, forward_avx512};

void shares_plain(const Call& call, int t) { shares_body(call, t); }
CHOIR_AVX2 void shares_avx2(const Call& call, int t) { shares_body(call, t); }
CHOIR_AVX512 void shares_avx512(const Call& call, int t) { shares_body(call, t); }
constexpr Versions<void(const Call&, int)> shares_row{shares_plain, shares_avx2, shares_avx512};

void each_row(const Call& call, const Versions<void(const Call&, int)>& row, Threads& threads) {
  CHOIR_CHECK(call.out.rows == call.z.rows && call.out.cols == call.z.cols, std::to_string(call.z.rows) + " rows");
  threads.for_each((call.z.rows + kRows - 1) / kRows, [&](int piece) {
    for (int t = piece * kRows; t < std::min(call.z.rows, (piece + 1) * kRows); ++t) row(call, t);
  });
}

}  // namespace

void sigmoid_forward(Matrix<const float> z, Matrix<float> s, Threads& threads) {
  each_row({z, s}, forward_row, threads);
}

void sigmoid_shares(Matrix<const float> z, Matrix<float> p, Threads& threads) { each_row({z, p}, shares_row, threads); }

}  // namespace choir::kernels
