#include "kernels/transposed_gemm.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/block_lanes.h"

namespace choir::kernels {
namespace {

constexpr int kColumns = 64;  // of a piece: that strip of a weight stays in the cache while the rows of x pass by

// The strip of one weight that begins at `column`, and the rows of its group.
struct Strip {
  const Groups& groups;
  Matrix<const float> x;
  Matrix<float> y;
  const Weight& w;
  int begin, end;  // positions
  int column;
};

// R rows by C vectors of columns. Beyond the last row it is the last once more; `left` columns remain from `column` on.
template <int W, int R, int C, class Type>
CHOIR_INLINE void tile(const Strip& strip, int position, int column, int left) {
  const float* x[R];
  for (int r = 0; r < R; ++r) x[r] = strip.x[strip.groups.source(std::min(position + r, strip.end - 1))];
  Lanes<W> total[R][C] = {};
  const Type* w = static_cast<const Type*>(strip.w.data);
  for (int o = 0; o < strip.w.rows; ++o, w += units_of<Type>(strip.w.cols)) {
    Lanes<W> row[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      row[c] = left < C * kLanes ? row_lanes_part<W>(w, column, left) : row_lanes<W>(w, column + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) multiply_add(total[r][c], row[c], x[r][o]);
  }
  // Unrolled like the sums: a loop left standing would keep them in memory throughout.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (position + r >= strip.end) return;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      float* y = strip.y[position + r] + column + c * kLanes;
      if (left < C * kLanes)
        std::memcpy(y, &total[r][c], static_cast<size_t>(left) * sizeof(float));
      else
        store_lanes<W>(y, total[r][c]);
    }
  }
}

template <int W, int R, int C, class Type>
CHOIR_INLINE void rows_of(const Strip& strip, int column, int left) {
  if (strip.end - strip.begin == 1) return tile<W, 1, C, Type>(strip, strip.begin, column, left);
  for (int i = strip.begin; i < strip.end; i += R) tile<W, R, C, Type>(strip, i, column, left);
}

// Tiles of C vectors, then of one: only those may be cut short.
template <int W, int R, int C, class Type>
CHOIR_INLINE void body(const Strip& strip) {
  const int end = std::min(strip.w.cols, strip.column + kColumns);
  int column = strip.column;
  for (; column + C * kLanes <= end; column += C * kLanes) rows_of<W, R, C, Type>(strip, column, C * kLanes);
  for (; column < end; column += kLanes) rows_of<W, R, 1, Type>(strip, column, end - column);
}

template <class Type>
void strip_plain(const Strip& strip) {
  body<4, 2, 1, Type>(strip);
}
template <class Type>
CHOIR_AVX2 void strip_avx2(const Strip& strip) {
  body<8, 2, 2, Type>(strip);
}
template <class Type>
CHOIR_AVX512 void strip_avx512(const Strip& strip) {
  body<16, 4, 4, Type>(strip);
}

template <class Type>
constexpr Versions<void(const Strip&)> kStrip{strip_plain<Type>, strip_avx2<Type>, strip_avx512<Type>};

void run(const Strip& strip) {
  const bool known = with_type(strip.w.type, [&]<class Type>(std::type_identity<Type>) { kStrip<Type>(strip); });
  CHOIR_CHECK(known, "no transposed product for type " + std::string(tensor::name_of(strip.w.type)));
}

}  // namespace

void transposed_forward(const Groups& groups, Matrix<const float> x, std::span<const Weight> w, Matrix<float> y,
                        Threads& threads) {
  CHOIR_CHECK(groups.offset.size() == w.size() + 1 && groups.offset.front() == 0 && groups.offset.back() <= y.rows,
              std::to_string(groups.offset.size()) + " offsets for " + std::to_string(w.size()) + " weights");
  for (const Weight& weight : w)
    CHOIR_CHECK(weight.rows == x.cols && weight.cols == y.cols,
                std::to_string(weight.rows) + " x " + std::to_string(weight.cols));
  const int across = (y.cols + kColumns - 1) / kColumns;
  threads.for_each(groups.count() * across, [&](int piece) {
    const int e = piece / across;
    const Strip strip{groups, x, y, w[e], groups.offset[e], groups.offset[e + 1], piece % across * kColumns};
    if (strip.begin < strip.end) run(strip);
  });
}

}  // namespace choir::kernels
