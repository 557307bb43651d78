#include "kernels/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kRows = 64;  // of one piece

struct Forward {
  Matrix<const float> z;
  Matrix<float> p;
  std::span<float> log_sum;
};

// p_e = exp(z_e - log_sum) with log_sum = m + log sum_e exp(z_e - m), m the largest: no exponential overflows.
CHOIR_INLINE void forward_body(const Forward& f, int piece) {
  const int cols = f.z.cols, end = std::min(f.z.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* z = f.z[t];
    float* p = f.p[t];
    Vec peaks = broadcast(-kInfinity);
    for (int e = 0; e < cols; e += kLanes) peaks = max(load(z + e, cols - e, -kInfinity), peaks);
    const float peak = largest(peaks);
    Vec total{};
    for (int e = 0; e < cols; e += kLanes) {
      const Vec power = exp(load(z + e, cols - e, -kInfinity) - peak);
      store(p + e, power, cols - e);
      total += power;
    }
    const float all = sum(total), share = 1 / all;
    for (int e = 0; e < cols; e += kLanes) store(p + e, load(p + e, cols - e) * share, cols - e);
    f.log_sum[static_cast<size_t>(t)] = peak + std::log(all);
  }
}

void forward_plain(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX512 void forward_avx512(const Forward& f, int piece) { forward_body(f, piece); }
constexpr Versions<void(const Forward&, int)> forward_piece{forward_plain, forward_avx2, forward_avx512};

int pieces(int rows) { return (rows + kRows - 1) / kRows; }

}  // namespace

void softmax_forward(Matrix<const float> z, Matrix<float> p, std::span<float> log_sum, Threads& threads) {
  CHOIR_CHECK(p.rows == z.rows && p.cols == z.cols && log_sum.size() == static_cast<size_t>(z.rows),
              std::to_string(z.rows) + " rows");
  const Forward f{z, p, log_sum};
  threads.for_each(pieces(z.rows), [&](int piece) { forward_piece(f, piece); });
}

}  // namespace choir::kernels
