#include "kernels/soft_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Forward {
  Matrix<const float> logits;
  const SoftTargets& soft;
  std::span<float> loss;
  const SoftSums& sums;
};

struct Backward {
  Matrix<float> logits;
  const SoftTargets& soft;
  std::span<const float> log_sum;
  const SoftSums& sums;
  MixedScale scale;
};

// All bits of a lane where e^x came out as 0: the sign is taken off, for the NaN of exp has one.
CHOIR_INLINE IntVec vanished(Vec power) { return ((reinterpret_cast<IntVec>(power) & 0x7fffffff) - 1) >> 31; }

// With a = x - max x of the student, b of the teacher: sum_v p_v (log p_v - log q_v) =
// sum_v e^(b_v/T) (b_v - a_v) / (T sum_v e^(b_v/T)) + log sum_v e^(a_v/T) - log sum_v e^(b_v/T). No exponential
// overflows, and models that agree are 0 apart to the last bit.
CHOIR_INLINE void forward_body(const Forward& f, int t) {
  const float *x = f.logits[t], *y = f.soft.logits[t];
  const int cols = f.logits.cols;
  const float temperature = f.soft.temperature, cold = 1 / temperature;
  Vec peaks = broadcast(-kInfinity), teacher_peaks = peaks;
  for (int v = 0; v < cols; v += kLanes) {
    peaks = max(load(x + v, cols - v, -kInfinity), peaks);
    teacher_peaks = max(load(y + v, cols - v, -kInfinity), teacher_peaks);
  }
  const float peak = largest(peaks), teacher_peak = largest(teacher_peaks);
  Vec total{}, teacher_total{}, apart{};
  for (int v = 0; v < cols; v += kLanes) {
    const Vec a = load(x + v, cols - v, -kInfinity) - peak;
    const Vec b = load(y + v, cols - v, -kInfinity) - teacher_peak;
    const Vec power = exp(b * cold);
    total += exp(a * cold);
    teacher_total += power;
    apart += select(vanished(power), Vec{}, power * (b - a));  // 0 log 0 = 0, whatever the student thinks
  }
  const float all = sum(total), teacher_all = sum(teacher_total);
  const float log_all = std::log(all), teacher_log_all = std::log(teacher_all);
  const auto i = static_cast<size_t>(t);
  f.loss[i] = temperature * (sum(apart) / teacher_all + temperature * (log_all - teacher_log_all));
  f.sums.student[i] = peak * cold + log_all;
  f.sums.teacher[i] = teacher_peak * cold + teacher_log_all;
}

// d loss / d logit_v = T (q_v - p_v), and softmax_v - [v = target] of the other loss; its last term is the caller's.
CHOIR_INLINE void backward_body(const Backward& b, int t) {
  float* x = b.logits[t];
  const float* y = b.soft.logits[t];
  const auto i = static_cast<size_t>(t);
  const float log_sum = b.log_sum[i], student = b.sums.student[i], teacher = b.sums.teacher[i];
  const float hard = b.scale.hard, soft = b.scale.soft * b.soft.temperature, cold = 1 / b.soft.temperature;
  const int cols = b.logits.cols;
  for (int v = 0; v < cols; v += kLanes) {
    const Vec own = load(x + v, cols - v);
    const Vec apart = exp(own * cold - student) - exp(load(y + v, cols - v) * cold - teacher);
    store(x + v, exp(own - log_sum) * hard + apart * soft, cols - v);
  }
}

void forward_plain(const Forward& f, int t) { forward_body(f, t); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int t) { forward_body(f, t); }
CHOIR_AVX512 void forward_avx512(const Forward& f, int t) { forward_body(f, t); }
constexpr Versions<void(const Forward&, int)> forward_row{forward_plain, forward_avx2, forward_avx512};

void backward_plain(const Backward& b, int t) { backward_body(b, t); }
CHOIR_AVX2 void backward_avx2(const Backward& b, int t) { backward_body(b, t); }
CHOIR_AVX512 void backward_avx512(const Backward& b, int t) { backward_body(b, t); }
constexpr Versions<void(const Backward&, int)> backward_row{backward_plain, backward_avx2, backward_avx512};

void check(Matrix<const float> logits, const SoftTargets& soft, size_t saved, const SoftSums& sums) {
  const auto rows = static_cast<size_t>(logits.rows);
  CHOIR_CHECK(soft.logits.rows == logits.rows && soft.logits.cols == logits.cols,
              "the teacher's logits have " + std::to_string(soft.logits.rows) + " rows");
  CHOIR_CHECK(soft.target.size() == rows && saved == rows && sums.student.size() == rows && sums.teacher.size() == rows,
              std::to_string(rows) + " rows");
  CHOIR_CHECK(soft.temperature > 0, "temperature " + std::to_string(soft.temperature));
  for (const int32_t t : soft.target) CHOIR_CHECK(t < logits.cols, "target " + std::to_string(t));
}

}  // namespace

void soft_cross_entropy_forward(Matrix<const float> logits, const SoftTargets& soft, std::span<float> loss,
                                const SoftSums& sums, Threads& threads) {
  check(logits, soft, loss.size(), sums);
  const Forward f{logits, soft, loss, sums};
  threads.for_each(logits.rows, [&](int t) {
    if (soft.target[static_cast<size_t>(t)] < 0)
      loss[static_cast<size_t>(t)] = 0;
    else
      forward_row(f, t);
  });
}

void mixed_cross_entropy_backward(Matrix<float> logits, const SoftTargets& soft, std::span<const float> log_sum,
                                  const SoftSums& sums, MixedScale scale, Threads& threads) {
  check(logits, soft, log_sum.size(), sums);
  const Backward b{logits, soft, log_sum, sums, scale};
  threads.for_each(logits.rows, [&](int t) {
    const int32_t wanted = soft.target[static_cast<size_t>(t)];
    if (wanted < 0) {
      std::ranges::fill(logits.row(t), 0.0f);
      return;
    }
    backward_row(b, t);
    logits[t][wanted] -= scale.hard;
  });
}

}  // namespace choir::kernels
