#include "kernels/block_sums.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kRows = 64;  // of one piece

struct Forward {
  Matrix<const float> x;
  std::span<const int32_t> bound;
  Matrix<float> sums;
  std::span<float> squares;
};

struct Backward {
  const BlockSumsGradient& gradient;
  Matrix<const float> x;
  std::span<const int32_t> bound;
  Matrix<float> dx;
};

CHOIR_INLINE void forward_body(const Forward& f, int piece) {
  const int end = std::min(f.x.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* x = f.x[t];
    Vec square{};
    for (size_t e = 0; e + 1 < f.bound.size(); ++e) {
      const int last = f.bound[e + 1];
      Vec total{};
      for (int j = f.bound[e]; j < last; j += kLanes) {
        const Vec v = load(x + j, last - j);
        total += v;
        square += v * v;
      }
      f.sums[t][e] = sum(total);
    }
    f.squares[static_cast<size_t>(t)] = sum(square);
  }
}

CHOIR_INLINE void backward_body(const Backward& b, int piece) {
  const int end = std::min(b.x.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* x = b.x[t];
    float* dx = b.dx[t];
    const float pull = 2 * b.gradient.squares[static_cast<size_t>(t)];
    for (size_t e = 0; e + 1 < b.bound.size(); ++e) {
      const int last = b.bound[e + 1];
      const float push = b.gradient.sums[t][e];
      for (int j = b.bound[e]; j < last; j += kLanes)
        store(dx + j, load(dx + j, last - j) + push + load(x + j, last - j) * pull, last - j);
    }
  }
}

void forward_plain(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int piece) { forward_body(f, piece); }
CHOIR_AVX512 void forward_avx512(const Forward& f, int piece) { forward_body(f, piece); }
constexpr Versions<void(const Forward&, int)> forward_piece{forward_plain, forward_avx2, forward_avx512};

void backward_plain(const Backward& b, int piece) { backward_body(b, piece); }
CHOIR_AVX2 void backward_avx2(const Backward& b, int piece) { backward_body(b, piece); }
CHOIR_AVX512 void backward_avx512(const Backward& b, int piece) { backward_body(b, piece); }
constexpr Versions<void(const Backward&, int)> backward_piece{backward_plain, backward_avx2, backward_avx512};

int pieces(int rows) { return (rows + kRows - 1) / kRows; }

void check(Matrix<const float> x, std::span<const int32_t> bound, int blocks, size_t squares) {
  CHOIR_CHECK(static_cast<int>(bound.size()) == blocks + 1 && bound.front() == 0 && bound.back() == x.cols &&
                  std::ranges::is_sorted(bound) && squares == static_cast<size_t>(x.rows),
              std::to_string(blocks) + " blocks of " + std::to_string(x.cols) + " channels");
}

}  // namespace

void block_sums_forward(Matrix<const float> x, std::span<const int32_t> bound, Matrix<float> sums,
                        std::span<float> squares, Threads& threads) {
  check(x, bound, sums.cols, squares.size());
  const Forward f{x, bound, sums, squares};
  threads.for_each(pieces(x.rows), [&](int piece) { forward_piece(f, piece); });
}

void block_sums_backward(const BlockSumsGradient& gradient, Matrix<const float> x, std::span<const int32_t> bound,
                         Matrix<float> dx, Threads& threads) {
  check(x, bound, gradient.sums.cols, gradient.squares.size());
  const Backward b{gradient, x, bound, dx};
  threads.for_each(pieces(x.rows), [&](int piece) { backward_piece(b, piece); });
}

}  // namespace choir::kernels
