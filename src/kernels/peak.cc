#include "kernels/peak.h"

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "kernels/lanes.h"
#include "tensor/buffer.h"

namespace choir::kernels {
namespace {

constexpr int kRuns = 5;
constexpr long kSteps = 400000;

// R independent sums hide the latency of a multiply-add and fill the registers. They start from numbers that the
// compiler cannot know, else it would fold them into one.
template <int W, int R>
CHOIR_INLINE void multiply_add_loop(float* out) {
  Lanes<W> acc[R];
  const Lanes<W> factor = load_lanes<W>(out);
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) acc[r] = load_lanes<W>(out + r * kLanes);
  for (long i = 0; i < kSteps; ++i) {
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < Lanes<W>::kParts; ++p) acc[r].part[p] = acc[r].part[p] * factor.part[p] + factor.part[p];
  }
  for (int r = 0; r < R; ++r) std::memcpy(out + r * kLanes, &acc[r], sizeof acc[r]);
}

constexpr int kPlainSums = 3, kAvx2Sums = 6, kAvx512Sums = 20;

void loop_plain(float* out) { multiply_add_loop<4, kPlainSums>(out); }
CHOIR_AVX2 void loop_avx2(float* out) { multiply_add_loop<8, kAvx2Sums>(out); }
CHOIR_AVX512 void loop_avx512(float* out) { multiply_add_loop<16, kAvx512Sums>(out); }

constexpr Versions<void(float*)> kLoop{loop_plain, loop_avx2, loop_avx512};

// The machine's own instruction, for the vector extension has none: 64 products into 16 sums.
CHOIR_AVX512 void loop_bytes(float* out) {
  IntVec acc[kAvx512Sums] = {};
  IntVec factor;
  std::memcpy(&factor, out, sizeof factor);
  for (long i = 0; i < kSteps; ++i) {
#pragma GCC unroll 24
    for (int r = 0; r < kAvx512Sums; ++r) asm("vpdpbusd %1, %1, %0" : "+v"(acc[r]) : "v"(factor));
  }
#pragma GCC unroll 24
  for (int r = 0; r < kAvx512Sums; ++r) {
    const IntVec result = acc[r];  // a copy: what has an address stays in memory, also inside the loop
    std::memcpy(out + r * kLanes, &result, sizeof result);
  }
}

int sums_of(Isa isa) { return isa >= Isa::kAvx512 ? kAvx512Sums : isa == Isa::kAvx2 ? kAvx2Sums : kPlainSums; }

CHOIR_INLINE void read_all(const float* data, size_t size, float* out) {
  Vec a{}, b{}, c{}, d{};
  for (size_t i = 0; i + 4 * kLanes <= size; i += 4 * kLanes) {
    a += load(data + i);
    b += load(data + i + kLanes);
    c += load(data + i + 2 * kLanes);
    d += load(data + i + 3 * kLanes);
  }
  *out = sum((a + b) + (c + d));
}

void read_plain(const float* data, size_t size, float* out) { read_all(data, size, out); }
CHOIR_AVX2 void read_avx2(const float* data, size_t size, float* out) { read_all(data, size, out); }
CHOIR_AVX512 void read_avx512(const float* data, size_t size, float* out) { read_all(data, size, out); }

constexpr Versions<void(const float*, size_t, float*)> kRead{read_plain, read_avx2, read_avx512};

// Work per second, the median of some runs after one to warm up.
template <class Run>
double median_rate(double work, const Run& run) {
  std::array<double, kRuns> rates;
  run();
  for (double& rate : rates) {
    const base::Stopwatch watch;
    run();
    rate = work / watch.seconds();
  }
  std::ranges::sort(rates);
  return rates[kRuns / 2];
}

// `work` is what one thread does in one loop.
template <class Loop>
double rate_of_loop(double work, const Loop& loop, base::Threads& threads) {
  tensor::Buffer<float> out(static_cast<size_t>(threads.count()) * 32 * kLanes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = 0.5f + 1e-3f * static_cast<float>(i % 400);
  return median_rate(work * threads.count(),
                     [&] { threads.for_each(threads.count(), [&](int t) { loop(&out[t * 32 * kLanes]); }); });
}

}  // namespace

double measure_peak_flops(base::Threads& threads) {
  return rate_of_loop(2.0 * kLanes * kSteps * sums_of(best_isa()), kLoop, threads);
}

double measure_peak_byte_operations(base::Threads& threads) {
  if (best_isa() < Isa::kVnni) return measure_peak_flops(threads);
  return rate_of_loop(2.0 * 4 * kLanes * kSteps * kAvx512Sums, loop_bytes, threads);
}

double measure_read_bandwidth(base::Threads& threads) {
  constexpr size_t kFloats = size_t{64} << 20;
  const size_t share = kFloats / static_cast<size_t>(threads.count());
  const tensor::Buffer<float> data(kFloats);
  tensor::Buffer<float> out(static_cast<size_t>(threads.count()) * kLanes);
  const double bytes = static_cast<double>(share * sizeof(float)) * threads.count();
  return median_rate(bytes, [&] {
    threads.for_each(threads.count(), [&](int t) { kRead(&data[t * share], share, &out[t * kLanes]); });
  });
}

}  // namespace choir::kernels
