#include "kernels/adamw.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr size_t kPiece = 16384;      // parameters
constexpr size_t kBlock = 65536;      // numbers of one partial sum of squares
constexpr int kRun = 1024;            // of them added in float
constexpr size_t kBlocksAtOnce = 64;  // partial sums on the stack

int pieces_of(size_t size, size_t piece) { return static_cast<int>((size + piece - 1) / piece); }

// The step's constants: corrections of the moments' bias towards their start at zero.
struct Job {
  AdamwStep step;
  float correction1, correction2;
};

// Plain loop: the compiler turns it into vectors, square root included.
CHOIR_INLINE void update_body(const Job& job, const AdamwState& state) {
  const AdamwStep& s = job.step;
  float* __restrict value = state.value.data(), * __restrict first = state.first.data();
  float* __restrict second = state.second.data();
  const float* __restrict gradient = state.gradient.data();
  const size_t size = state.value.size();
  for (size_t i = 0; i < size; ++i) {
    const float g = gradient[i] * s.gradient_scale;
    const float m = s.beta1 * first[i] + (1 - s.beta1) * g;
    const float v = s.beta2 * second[i] + (1 - s.beta2) * (g * g);
    first[i] = m;
    second[i] = v;
    const float direction = m * job.correction1 / (std::sqrt(v * job.correction2) + s.epsilon);
    value[i] -= s.learning_rate * (direction + s.weight_decay * value[i]);
  }
}

// 32 even bits from a place and a step, by the end of MurmurHash3: 16 for each moment.
CHOIR_INLINE void update_narrow_body(const Job& job, const AdamwNarrowState& state) {
  const AdamwStep& s = job.step;
  float* __restrict value = state.value.data();
  auto* __restrict first = reinterpret_cast<uint16_t*>(state.first.data());
  auto* __restrict second = reinterpret_cast<uint16_t*>(state.second.data());
  const float* __restrict gradient = state.gradient.data();
  const auto size = static_cast<uint32_t>(state.value.size());
  const uint32_t start = static_cast<uint32_t>(state.begin) * 0x9e3779b1u + static_cast<uint32_t>(s.step) * 0x85157af5u;
  for (uint32_t i = 0; i < size; ++i) {
    uint32_t h = start + i * 0x9e3779b1u;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    h ^= h >> 16;
    const float g = gradient[i] * s.gradient_scale;
    const float m = s.beta1 * std::bit_cast<float>(static_cast<uint32_t>(first[i]) << 16) + (1 - s.beta1) * g;
    const float v = s.beta2 * std::bit_cast<float>(static_cast<uint32_t>(second[i]) << 16) + (1 - s.beta2) * (g * g);
    first[i] = static_cast<uint16_t>((std::bit_cast<uint32_t>(m) + (h & 0xffffu)) >> 16);
    second[i] = static_cast<uint16_t>((std::bit_cast<uint32_t>(v) + (h >> 16)) >> 16);
    const float direction = m * job.correction1 / (std::sqrt(v * job.correction2) + s.epsilon);
    value[i] -= s.learning_rate * (direction + s.weight_decay * value[i]);
  }
}

CHOIR_INLINE void squares_body(std::span<const float> x, double& total) {
  const int size = static_cast<int>(x.size());
  total = 0;
  for (int begin = 0; begin < size; begin += kRun) {
    const int end = std::min(size, begin + kRun);
    Vec squares{};
    for (int i = begin; i < end; i += kLanes) {
      const Vec v = load(x.data() + i, end - i);
      squares += v * v;
    }
    total += static_cast<double>(sum(squares));
  }
}

void update_plain(const Job& job, const AdamwState& state) { update_body(job, state); }
CHOIR_AVX2 void update_avx2(const Job& job, const AdamwState& state) { update_body(job, state); }
CHOIR_AVX512 void update_avx512(const Job& job, const AdamwState& state) { update_body(job, state); }
constexpr Versions<void(const Job&, const AdamwState&)> update{update_plain, update_avx2, update_avx512};

void narrow_plain(const Job& job, const AdamwNarrowState& state) { update_narrow_body(job, state); }
CHOIR_AVX2 void narrow_avx2(const Job& job, const AdamwNarrowState& state) { update_narrow_body(job, state); }
CHOIR_AVX512 void narrow_avx512(const Job& job, const AdamwNarrowState& state) { update_narrow_body(job, state); }
constexpr Versions<void(const Job&, const AdamwNarrowState&)> update_narrow{narrow_plain, narrow_avx2, narrow_avx512};

void squares_plain(std::span<const float> x, double& total) { squares_body(x, total); }
CHOIR_AVX2 void squares_avx2(std::span<const float> x, double& total) { squares_body(x, total); }
CHOIR_AVX512 void squares_avx512(std::span<const float> x, double& total) { squares_body(x, total); }
constexpr Versions<void(std::span<const float>, double&)> squares{squares_plain, squares_avx2, squares_avx512};

template <class State>
Job job_of(const AdamwStep& step, const State& state) {
  const size_t size = state.value.size();
  CHOIR_CHECK(state.first.size() == size && state.second.size() == size && state.gradient.size() == size,
              std::to_string(size) + " parameters");
  CHOIR_CHECK(step.step >= 1, "step " + std::to_string(step.step));
  const auto correction = [&](float beta) {
    return static_cast<float>(1 / (1 - std::pow(static_cast<double>(beta), step.step)));
  };
  return {step, correction(step.beta1), correction(step.beta2)};
}

template <class Body>
void each_piece(size_t size, Threads& threads, const Body& body) {
  threads.for_each(pieces_of(size, kPiece), [&](int piece) {
    const size_t begin = static_cast<size_t>(piece) * kPiece;
    body(begin, std::min(kPiece, size - begin));
  });
}

}  // namespace

void adamw(const AdamwStep& step, const AdamwState& state, Threads& threads) {
  const Job job = job_of(step, state);
  each_piece(state.value.size(), threads, [&](size_t begin, size_t count) {
    update(job, AdamwState{state.value.subspan(begin, count), state.first.subspan(begin, count),
                           state.second.subspan(begin, count), state.gradient.subspan(begin, count)});
  });
}

void adamw(const AdamwStep& step, const AdamwNarrowState& state, Threads& threads) {
  const Job job = job_of(step, state);
  each_piece(state.value.size(), threads, [&](size_t begin, size_t count) {
    update_narrow(job, AdamwNarrowState{state.value.subspan(begin, count), state.first.subspan(begin, count),
                                        state.second.subspan(begin, count), state.gradient.subspan(begin, count),
                                        state.begin + begin});
  });
}

double sum_of_squares(std::span<const float> x, Threads& threads) {
  std::array<double, kBlocksAtOnce> partial;
  double total = 0;
  while (!x.empty()) {
    const auto now = x.first(std::min(x.size(), kBlock * kBlocksAtOnce));
    const int blocks = pieces_of(now.size(), kBlock);
    threads.for_each(blocks, [&](int b) {
      const size_t begin = static_cast<size_t>(b) * kBlock;
      squares(now.subspan(begin, std::min(kBlock, now.size() - begin)), partial[static_cast<size_t>(b)]);
    });
    for (int b = 0; b < blocks; ++b) total += partial[static_cast<size_t>(b)];
    x = x.subspan(now.size());
  }
  return total;
}

}  // namespace choir::kernels
