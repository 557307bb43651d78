// Sixteen lanes as the machine holds them: one register of 16 floats, two of 8 or four of 4. GCC 12 keeps a Vec that is
// wider than a register in memory; loops whose sums must stay in registers are written over these instead.
#pragma once

#include <cstring>

#include "kernels/vec.h"

namespace choir::kernels {

template <int Width>  // 16, 8 or 4: what the shell's instructions hold
struct Lanes {
  typedef float Native __attribute__((vector_size(Width * sizeof(float))));
  static constexpr int kParts = kLanes / Width;
  Native part[kParts];
};

// Words of four bytes, whatever they hold.
template <int W, class Word>
CHOIR_INLINE Lanes<W> load_words(const Word* p) {
  static_assert(sizeof(Word) == sizeof(float));
  Lanes<W> result;
#pragma GCC unroll 4
  for (int i = 0; i < Lanes<W>::kParts; ++i) std::memcpy(&result.part[i], p + i * W, sizeof result.part[i]);
  return result;
}

template <int W>
CHOIR_INLINE Lanes<W> load_lanes(const float* p) {
  return load_words<W>(p);
}

template <int W>
CHOIR_INLINE Lanes<W> lanes(Vec v) {
  Lanes<W> result;
  std::memcpy(&result, &v, sizeof v);
  return result;
}

// Of a format that is widened as it is read.
template <int W, class Half>
CHOIR_INLINE Lanes<W> load_lanes(const Half* p) {
  return lanes<W>(load(p));
}

// The first n of sixteen; the rest is zero.
template <int W>
CHOIR_INLINE Lanes<W> load_lanes_part(const float* p, int n) {
  float part[kLanes];
  for (int i = 0; i < kLanes; ++i) part[i] = i < n ? p[i] : 0.0f;
  return load_lanes<W>(part);
}

template <int W>
CHOIR_INLINE void store_lanes(float* p, const Lanes<W>& v) {
#pragma GCC unroll 4
  for (int i = 0; i < Lanes<W>::kParts; ++i) std::memcpy(p + i * W, &v.part[i], sizeof v.part[i]);
}

template <int W>
CHOIR_INLINE void add(Lanes<W>& total, const Lanes<W>& a) {
#pragma GCC unroll 4
  for (int i = 0; i < Lanes<W>::kParts; ++i) total.part[i] += a.part[i];
}

template <int W>
CHOIR_INLINE void multiply_add(Lanes<W>& total, const Lanes<W>& a, float b) {
#pragma GCC unroll 4
  for (int i = 0; i < Lanes<W>::kParts; ++i) total.part[i] += a.part[i] * b;
}

template <int W>
CHOIR_INLINE void multiply_add(Lanes<W>& total, const Lanes<W>& a, const Lanes<W>& b) {
#pragma GCC unroll 4
  for (int i = 0; i < Lanes<W>::kParts; ++i) total.part[i] += a.part[i] * b.part[i];
}

// The tree of sum(Vec): i with i+8, then +4, +2, +1.
CHOIR_INLINE float sum(const Lanes<16>& v) { return sum(v.part[0]); }
CHOIR_INLINE float sum(const Lanes<4>& v) {
  const auto four = (v.part[0] + v.part[2]) + (v.part[1] + v.part[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
CHOIR_INLINE float sum(const Lanes<8>& v) {
  const auto eight = v.part[0] + v.part[1];
  Lanes<4>::Native low, high;
  std::memcpy(&low, &eight, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&eight) + sizeof low, sizeof high);
  const auto four = low + high;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

}  // namespace choir::kernels
