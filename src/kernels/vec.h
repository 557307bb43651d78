// Sixteen floats at once in GCC's vector extension. The order of every sum is fixed by the sixteen lanes, so a result
// does not depend on the width of the machine's registers, only on whether it fuses multiply-adds.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/isa.h"
#include "tensor/dtype.h"

namespace choir::kernels {

constexpr int kLanes = 16;
typedef float Vec __attribute__((vector_size(64)));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint16_t HalfVec __attribute__((vector_size(32)));

CHOIR_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

CHOIR_INLINE Vec load(const tensor::BF16* p) {
  HalfVec half;
  std::memcpy(&half, p, sizeof half);
  return reinterpret_cast<Vec>(__builtin_convertvector(half, IntVec) << 16);
}

// The floats that the low 16 bits of each number are in half precision. Exponent and fraction move to their float
// place; a multiplication by 2^112 corrects the bias and makes subnormals right. Infinities and NaNs get the float
// exponent by hand.
template <class Floats, class Ints>
CHOIR_INLINE Floats widen_half(Ints bits) {
  const Ints magnitude = (bits & 0x7fff) << 13;
  Floats value = reinterpret_cast<Floats>(magnitude) * 0x1p112f;
  const Ints special = ((0x7c00 << 13) - 1 - magnitude) >> 31;
  value = reinterpret_cast<Floats>(reinterpret_cast<Ints>(value) | (special & 0x7f800000));
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(value) | ((bits & 0x8000) << 16));
}

CHOIR_INLINE Vec load(const tensor::F16* p) {
  HalfVec half;
  std::memcpy(&half, p, sizeof half);
  return widen_half<Vec>(__builtin_convertvector(half, IntVec));
}

// The first n of sixteen; the rest is zero.
template <class T>
CHOIR_INLINE Vec load_part(const T* p, int n) {
  T part[kLanes];
  for (int i = 0; i < kLanes; ++i) part[i] = i < n ? p[i] : T{};  // a masked load where the machine has one
  return load(part);
}

CHOIR_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
CHOIR_INLINE void store_part(float* p, Vec v, int n) { std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(float)); }

// For loops over a row of any length: `left` elements remain from p on, and the vector takes up to sixteen of them.
template <class T>
CHOIR_INLINE Vec load(const T* p, int left) {
  return left >= kLanes ? load(p) : load_part(p, left);
}
// The same with `fill` in place of what is not there.
CHOIR_INLINE Vec load(const float* p, int left, float fill) {
  if (left >= kLanes) return load(p);
  float part[kLanes];
  for (int i = 0; i < kLanes; ++i) part[i] = i < left ? p[i] : fill;
  return load(part);
}
CHOIR_INLINE void store(float* p, Vec v, int left) {
  if (left >= kLanes)
    store(p, v);
  else
    store_part(p, v, left);
}

CHOIR_INLINE Vec broadcast(float x) { return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// The lanes in a fixed tree: i with i+8, then +4, +2, +1.
CHOIR_INLINE float sum(Vec v) {
  typedef float Vec8 __attribute__((vector_size(32)));
  typedef float Vec4 __attribute__((vector_size(16)));
  Vec8 a, b;
  std::memcpy(&a, &v, sizeof a);
  std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof a, sizeof b);
  a += b;
  Vec4 c, d;
  std::memcpy(&c, &a, sizeof c);
  std::memcpy(&d, reinterpret_cast<const char*>(&a) + sizeof c, sizeof d);
  c += d;
  return (c[0] + c[2]) + (c[1] + c[3]);
}

// Choices are made with bits: GCC 12 takes a comparison of vectors wider than the machine's registers, and a mask that
// is used as a number, apart into single elements.
CHOIR_INLINE IntVec negative(Vec v) { return reinterpret_cast<IntVec>(v) >> 31; }  // all bits of a lane, or none
CHOIR_INLINE Vec select(IntVec mask, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((reinterpret_cast<IntVec>(yes) & mask) | (reinterpret_cast<IntVec>(no) & ~mask));
}
CHOIR_INLINE Vec max(Vec a, Vec b) { return select(negative(a - b), b, a); }  // of a NaN and a number: either

CHOIR_INLINE float largest(Vec v) {
  float half[kLanes / 2];
  for (int lane = 0; lane < kLanes / 2; ++lane) half[lane] = v[lane + 8] > v[lane] ? v[lane + 8] : v[lane];
  for (int step = kLanes / 4; step > 0; step /= 2)
    for (int lane = 0; lane < step; ++lane)
      half[lane] = half[lane + step] > half[lane] ? half[lane + step] : half[lane];
  return half[0];
}

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, its series to degree 7 in r, then n into the exponent. The relative error
// is below 2e-7 (measured in vec_test.cc). Below -87.3 the result is 0, above 88 it is that of 88; NaN gives a NaN.
CHOIR_INLINE Vec exp(Vec x) {
  const IntVec dead = negative(x + 87.3f), over = negative(88.0f - x);
  const Vec clamped = select(over, broadcast(88.0f), select(dead, Vec{}, x));
  const Vec shifter = broadcast(0x1.8p23f);  // adding it rounds to the nearest integer
  Vec n = clamped * 1.44269504f + shifter;
  const IntVec integer = reinterpret_cast<IntVec>(n) << 23;
  n -= shifter;
  const Vec r = clamped - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts (Cody and Waite)
  Vec p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Vec value = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(p) + integer);
  const IntVec nan = (0x7f800000 - (reinterpret_cast<IntVec>(x) & 0x7fffffff)) >> 31;
  return reinterpret_cast<Vec>((reinterpret_cast<IntVec>(value) & ~dead) | nan);
}

CHOIR_INLINE Vec logistic(Vec x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace choir::kernels
