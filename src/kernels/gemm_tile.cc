#include "kernels/gemm_tile.h"

#include <string>

#include "base/error.h"
#include "kernels/block_lanes.h"

namespace choir::kernels {
namespace {

// Folds pairs of vectors lane-wise in halves: the same tree of additions as sum(Vec), for sixteen vectors at once.
template <int Half>
CHOIR_INLINE Vec fold(Vec a, Vec b) {
  IntVec low{}, high{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {  // groups of 2 * Half lanes: the lower half from a, the upper from b
    const int group = i / (2 * Half) * 2 * Half, inside = i % (2 * Half);
    const int from = inside < Half ? group + inside : kLanes + group + inside - Half;
    low[i] = from;
    high[i] = from + Half;
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// out[i] = sum(v[i]) for sixteen vectors.
CHOIR_INLINE void sums(const float (*v)[kLanes], float* out) {
  Vec eight[8], four[4], two[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) eight[i] = fold<8>(load(v[i]), load(v[i + 8]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) four[i] = fold<4>(eight[i], eight[i + 4]);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) two[i] = fold<2>(four[i], four[i + 2]);
  store(out, fold<1>(two[0], two[1]));
}

template <int W, int R, int C, class Type>
struct DotTile {
  const float* x[R];
  const Type* w[C];
  Lanes<W> acc[R][C];

  // A tile over the edge repeats its last row or column; finish() drops the result.
  CHOIR_INLINE void begin(const DotBlock& block, int r0, int c0) {
    for (int r = 0; r < R; ++r) x[r] = block.x[r0 + r < block.rows ? r0 + r : block.rows - 1];
    for (int c = 0; c < C; ++c) {
      const int col = c0 + c < block.cols ? c0 + c : block.cols - 1;
      w[c] = static_cast<const Type*>(block.w) + col * units_of<Type>(block.w_stride);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = {};
  }

  CHOIR_INLINE void step(int k) {
    Lanes<W> column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) column[c] = row_lanes<W>(w[c], k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Lanes<W> row = load_lanes<W>(x[r] + k);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) multiply_add(acc[r][c], row, column[c]);
    }
  }

  // Unrolled like step(): a loop left standing would keep all sums in memory, in step() too.
  CHOIR_INLINE void last_step(int k, int left) {
    Lanes<W> column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) column[c] = row_lanes_part<W>(w[c], k, left);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Lanes<W> row = lanes<W>(load_part(x[r] + k, left));
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) multiply_add(acc[r][c], row, column[c]);
    }
  }

  static constexpr int kPadded = (R * C + kLanes - 1) / kLanes * kLanes;

  // Sixteen sums fold together where a register holds sixteen lanes; narrower ones add up each by itself, in one tree.
  CHOIR_INLINE void total(float* result) const {
    if constexpr (W == kLanes) {
      float flat[kPadded][kLanes];
#pragma GCC unroll 32
      for (int i = 0; i < R * C; ++i) std::memcpy(flat[i], &acc[i / C][i % C], sizeof flat[i]);
      for (int i = R * C; i < kPadded; ++i) std::memset(flat[i], 0, sizeof flat[i]);
      for (int i = 0; i < kPadded; i += kLanes) sums(flat + i, result + i);
    } else {
#pragma GCC unroll 32
      for (int i = 0; i < R * C; ++i) result[i] = sum(acc[i / C][i % C]);
    }
  }

  CHOIR_INLINE void finish(const DotBlock& block, int r0, int c0) const {
    float result[kPadded];
    total(result);
    for (int r = 0; r < R && r0 + r < block.rows; ++r)
      for (int c = 0; c < C && c0 + c < block.cols; ++c)
        block.y[(r0 + r) * block.y_stride + c0 + c] = result[r * C + c];
  }
};

template <int W, int R, int C, class Type>
CHOIR_INLINE void dot_tile(const DotBlock& block, int r0, int c0) {
  DotTile<W, R, C, Type> tile;
  tile.begin(block, r0, c0);
  int k = 0;
  for (; k + kLanes <= block.depth; k += kLanes) tile.step(k);
  if (k < block.depth) tile.last_step(k, block.depth - k);
  tile.finish(block, r0, c0);
}

// Bands of C rows of the weight stay in the first-level cache while the rows of x pass by. A single row takes bands of
// Single instead, so that enough sums are under way to hide the latency of an addition.
template <int W, int R, int C, int Single, class Type>
CHOIR_INLINE void dot_block(const DotBlock& block) {
  if (block.rows == 1) {
    for (int c = 0; c < block.cols; c += Single) dot_tile<W, 1, Single, Type>(block, 0, c);
    return;
  }
  for (int c = 0; c < block.cols; c += C)
    for (int r = 0; r < block.rows; r += R) dot_tile<W, R, C, Type>(block, r, c);
}

// Tile sizes: measured (bench/gemm). 4 x 4 beats 4 x 6 with AVX-512: its sixteen sums fold in one go.
template <class Type>
void dot_plain(const DotBlock& block) {
  dot_block<4, 2, 1, 2, Type>(block);
}
template <class Type>
CHOIR_AVX2 void dot_avx2(const DotBlock& block) {
  dot_block<8, 2, 2, 4, Type>(block);
}
template <class Type>
CHOIR_AVX512 void dot_avx512(const DotBlock& block) {
  dot_block<16, 4, 4, 8, Type>(block);
}

template <class Type>
constexpr Versions<void(const DotBlock&)> kDot{dot_plain<Type>, dot_avx2<Type>, dot_avx512<Type>};

}  // namespace

const Versions<void(const DotBlock&)>& dot_for(tensor::DType type) {
  const Versions<void(const DotBlock&)>* found = nullptr;
  with_type(type, [&]<class Type>(std::type_identity<Type>) { found = &kDot<Type>; });
  CHOIR_CHECK(found, "no product for a weight of type " + std::string(tensor::name_of(type)));
  return *found;
}

}  // namespace choir::kernels
