// Sixteen rows of sixteen numbers become their columns.
#pragma once

#include "kernels/vec.h"

namespace choir::kernels {

// One of four rounds: of rows i and i + Half, the lanes whose number has the bit Half and those that have not.
template <int Half>
CHOIR_INLINE void part_lanes(Vec a, Vec b, Vec& without, Vec& with) {
  IntVec low{}, high{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const bool upper = i & Half;
    low[i] = upper ? kLanes + i - Half : i;
    high[i] = upper ? kLanes + i : i + Half;
  }
  without = __builtin_shuffle(a, b, low);
  with = __builtin_shuffle(a, b, high);
}

template <int Half>
CHOIR_INLINE void exchange(Vec (&v)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & Half)) part_lanes<Half>(v[i], v[i + Half], v[i], v[i + Half]);
}

CHOIR_INLINE void turn(Vec (&v)[kLanes]) {
  exchange<8>(v);
  exchange<4>(v);
  exchange<2>(v);
  exchange<1>(v);
}

// Lane r of the result is what `combine` makes of the lanes of v[r], in the tree of sum(Vec): i with i+8, then +4 and
// so on. Fifteen steps, where sixteen rows one by one would take sixty.
template <int Half, class Combine>
CHOIR_INLINE void fold(Vec (&v)[kLanes], const Combine& combine) {
#pragma GCC unroll 16
  for (int i = 0; i < Half; ++i) {
    Vec without, with;
    part_lanes<Half>(v[i], v[i + Half], without, with);
    v[i] = combine(without, with);
  }
}

template <class Combine>
CHOIR_INLINE Vec fold_rows(Vec (&v)[kLanes], const Combine& combine) {
  fold<8>(v, combine);
  fold<4>(v, combine);
  fold<2>(v, combine);
  fold<1>(v, combine);
  return v[0];
}

}  // namespace choir::kernels
