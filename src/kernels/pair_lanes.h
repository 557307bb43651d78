// Sixteen words of two numbers in BF16 each, and the instructions for them. Only for versions of Isa::kBf16: GCC 12 has
// no word for these in its vector extension.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

// sum[l] + the two products of BF16 in each word, of w[l] and of x[l].
CHOIR_INLINE Vec add_pairs(Vec sum, IntVec w, IntVec x) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  return sum;
}

// The word in every lane. (GCC makes a sum with a vector of zeros sixteen masked loads, here and there.)
CHOIR_INLINE IntVec in_all(const uint32_t& word) {
  IntVec words;
  asm("vpbroadcastd %1, %0" : "=v"(words) : "m"(word));
  return words;
}

// 32 numbers rounded to the nearest, or even, BF16, in order: two a word, those of `low` first.
CHOIR_INLINE IntVec rounded_pairs(Vec low, Vec high) {
  IntVec words;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(words) : "v"(high), "v"(low));
  return words;
}

// Words of one number from the first half and one from the second.
CHOIR_INLINE IntVec interleaved(IntVec halves) {
  typedef int16_t Shorts __attribute__((vector_size(64)));
  Shorts order{};
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) order[i] = static_cast<int16_t>(i % 2 * 16 + i / 2);
  return reinterpret_cast<IntVec>(__builtin_shuffle(reinterpret_cast<Shorts>(halves), order));
}

}  // namespace choir::kernels
