// The tile under products of panels: R rows of one operand, whose numbers are broadcast, times rows of a panel of the
// other. Every element is one chain of multiply-adds, whatever R is.
#pragma once

#include "kernels/lanes.h"
#include "kernels/pair_lanes.h"

namespace choir::kernels {

// Both operands hold words: floats, or pairs of numbers in BF16, of two successive p, the earlier one in the lower
// half.
using Pair = uint32_t;

// Where a tile finds the scalars of a: in rows of their own, or packed, R for each p.
template <int R, class Word = float>
struct RowScalars {
  const Word* row[R];
  CHOIR_INLINE const Word& operator()(int r, int p) const { return row[r][p]; }
};

template <int R, class Word = float>
struct PackedScalars {
  const Word* panel;
  CHOIR_INLINE const Word& operator()(int r, int p) const { return panel[p * R + r]; }
};

// Rows of the panel, `step` words apart.
template <class Word>
struct PanelWords {
  const Word* first;
  ptrdiff_t step;
  int count;
};
using PanelRows = PanelWords<float>;

// Where a tile's results lie, and whether they are added to what is there.
struct Results {
  float* y;
  ptrdiff_t stride;
  bool add;
};

CHOIR_INLINE void multiply_add(Lanes<kLanes>& total, const Lanes<kLanes>& a, const Pair& b) {
  total.part[0] = add_pairs(total.part[0], reinterpret_cast<IntVec>(a.part[0]), in_all(b));
}

// y[r][c] (+)= sum over p, in order, of a(r,p) b[p][c], for C times sixteen columns.
template <int W, int R, int C, class Word, class Scalars>
CHOIR_INLINE void tile_body(const Scalars& a, const PanelWords<Word>& b, const Results& to) {
  Lanes<W> acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = {};
  const Word* from = b.first;
  for (int p = 0; p < b.count; ++p, from += b.step) {
    Lanes<W> column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) column[c] = load_words<W>(from + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Word& scalar = a(r, p);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) multiply_add(acc[r][c], column[c], scalar);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      float* y = to.y + r * to.stride + c * kLanes;
      if (to.add) add(acc[r][c], load_lanes<W>(y));
      store_lanes(y, acc[r][c]);
    }
}

// The instruction sets, and the columns of a tile in units of sixteen: 24 sums of 32 registers with AVX-512, 12 of 16
// with AVX2. A tile is a function of its own: within the rest of the work, whose constants the compiler keeps in
// registers, one of its sums would live in memory and every step wait for it (measured on 96 x 64 x 128: 70 % of one
// core's peak, then 86 %).
struct PlainTile {
  using Word = float;
  static constexpr int kWidth = 4, kColumns = 1;
  template <int R, int C, class Scalars>
  [[gnu::noinline]] static void tile(const Scalars& a, const PanelRows& b, const Results& to) {
    tile_body<kWidth, R, C>(a, b, to);
  }
};

struct Avx2Tile {
  using Word = float;
  static constexpr int kWidth = 8, kColumns = 1;
  template <int R, int C, class Scalars>
  CHOIR_AVX2 [[gnu::noinline]] static void tile(const Scalars& a, const PanelRows& b, const Results& to) {
    tile_body<kWidth, R, C>(a, b, to);
  }
};

struct Avx512Tile {
  using Word = float;
  static constexpr int kWidth = 16, kColumns = 4;
  template <int R, int C, class Scalars>
  CHOIR_AVX512 [[gnu::noinline]] static void tile(const Scalars& a, const PanelRows& b, const Results& to) {
    tile_body<kWidth, R, C>(a, b, to);
  }
};

// For versions of Isa::kBf16.
struct PairTile {
  using Word = Pair;
  static constexpr int kWidth = 16, kColumns = 4;
  template <int R, int C, class Scalars>
  CHOIR_AVX512 [[gnu::noinline]] static void tile(const Scalars& a, const PanelWords<Pair>& b, const Results& to) {
    tile_body<kWidth, R, C>(a, b, to);
  }
};

}  // namespace choir::kernels
