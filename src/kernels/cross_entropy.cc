#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Backward {
  Matrix<float> logits;
  std::span<const float> log_sum;
  float scale;
};

// log sum_v e^x_v = m + log sum_v e^(x_v - m), m the largest: no exponential overflows.
CHOIR_INLINE void log_sum_body(std::span<const float> row, float& log_sum) {
  const float* x = row.data();
  const int cols = static_cast<int>(row.size());
  Vec peaks = broadcast(-kInfinity);
  for (int v = 0; v < cols; v += kLanes) peaks = max(load(x + v, cols - v, -kInfinity), peaks);
  const float peak = largest(peaks);
  Vec total{};
  for (int v = 0; v < cols; v += kLanes) total += exp(load(x + v, cols - v, -kInfinity) - peak);
  log_sum = peak + std::log(sum(total));
}

// d loss / d logit_v = softmax_v - [v = target]; the second term is the caller's.
CHOIR_INLINE void softmax_body(const Backward& b, int t) {
  float* x = b.logits[t];
  const float log_sum = b.log_sum[static_cast<size_t>(t)];
  const int cols = b.logits.cols;
  for (int v = 0; v < cols; v += kLanes) store(x + v, exp(load(x + v, cols - v) - log_sum) * b.scale, cols - v);
}

void log_sum_plain(std::span<const float> row, float& result) { log_sum_body(row, result); }
CHOIR_AVX2 void log_sum_avx2(std::span<const float> row, float& result) { log_sum_body(row, result); }
CHOIR_AVX512 void log_sum_avx512(std::span<const float> row, float& result) { log_sum_body(row, result); }
constexpr Versions<void(std::span<const float>, float&)> log_sum_of{log_sum_plain, log_sum_avx2, log_sum_avx512};

void softmax_plain(const Backward& b, int t) { softmax_body(b, t); }
CHOIR_AVX2 void softmax_avx2(const Backward& b, int t) { softmax_body(b, t); }
CHOIR_AVX512 void softmax_avx512(const Backward& b, int t) { softmax_body(b, t); }
constexpr Versions<void(const Backward&, int)> scaled_softmax{softmax_plain, softmax_avx2, softmax_avx512};

void check(Matrix<const float> logits, std::span<const int32_t> target, size_t saved) {
  const auto rows = static_cast<size_t>(logits.rows);
  CHOIR_CHECK(target.size() == rows && saved == rows, std::to_string(rows) + " rows");
  for (const int32_t t : target) CHOIR_CHECK(t < logits.cols, "target " + std::to_string(t));
}

}  // namespace

void cross_entropy_forward(Matrix<const float> logits, std::span<const int32_t> target, std::span<float> loss,
                           std::span<float> log_sum, Threads& threads) {
  check(logits, target, loss.size());
  check(logits, target, log_sum.size());
  threads.for_each(logits.rows, [&](int t) {
    const auto i = static_cast<size_t>(t);
    log_sum_of(logits.row(t), log_sum[i]);
    loss[i] = target[i] < 0 ? 0 : log_sum[i] - logits[t][target[i]];
  });
}

void cross_entropy_backward(Matrix<float> logits, std::span<const int32_t> target, std::span<const float> log_sum,
                            float scale, Threads& threads) {
  check(logits, target, log_sum.size());
  const Backward b{logits, log_sum, scale};
  threads.for_each(logits.rows, [&](int t) {
    const int32_t wanted = target[static_cast<size_t>(t)];
    if (wanted < 0) {
      std::ranges::fill(logits.row(t), 0.0f);
      return;
    }
    scaled_softmax(b, t);
    logits[t][wanted] -= scale;
  });
}

}  // namespace choir::kernels
