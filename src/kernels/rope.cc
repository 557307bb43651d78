#include "kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kRows = 16;  // of a piece

struct Job {
  Matrix<float> x;
  std::span<const int> position;
  Matrix<const float> table;
  float direction;  // +1 or -1
};

// (a, b) becomes (a cos - b sin, b cos + a sin).
CHOIR_INLINE void turn_head(float* head, const float* table, int half, float direction) {
  for (int i = 0; i < half; i += kLanes) {
    const int left = half - i;
    const Vec cosine = load(table + i, left), sine = load(table + half + i, left) * direction;
    const Vec a = load(head + i, left), b = load(head + half + i, left);
    store(head + i, a * cosine - b * sine, left);
    store(head + half + i, b * cosine + a * sine, left);
  }
}

CHOIR_INLINE void body(const Job& job, int piece) {
  const int width = job.table.cols, end = std::min(job.x.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* table = job.table[job.position[static_cast<size_t>(t)]];
    for (int h = 0; h < job.x.cols; h += width) turn_head(job.x[t] + h, table, width / 2, job.direction);
  }
}

void rows_plain(const Job& job, int piece) { body(job, piece); }
CHOIR_AVX2 void rows_avx2(const Job& job, int piece) { body(job, piece); }
CHOIR_AVX512 void rows_avx512(const Job& job, int piece) { body(job, piece); }
constexpr Versions<void(const Job&, int)> rows{rows_plain, rows_avx2, rows_avx512};

}  // namespace

void rope_table(float theta, Matrix<float> table) {
  const int half = table.cols / 2;
  CHOIR_CHECK(table.cols == 2 * half, "head width " + std::to_string(table.cols));
  for (int i = 0; i < half; ++i) {
    const double frequency = std::pow(static_cast<double>(theta), -2.0 * i / table.cols);
    for (int p = 0; p < table.rows; ++p) {
      table[p][i] = static_cast<float>(std::cos(p * frequency));
      table[p][half + i] = static_cast<float>(std::sin(p * frequency));
    }
  }
}

void rope(Matrix<float> x, std::span<const int> position, Matrix<const float> table, Turn turn, Threads& threads) {
  CHOIR_CHECK(table.cols > 0 && table.cols % 2 == 0 && x.cols % table.cols == 0,
              std::to_string(x.cols) + " columns, heads of " + std::to_string(table.cols));
  CHOIR_CHECK(position.size() == static_cast<size_t>(x.rows), std::to_string(position.size()) + " positions");
  for (const int p : position)
    CHOIR_CHECK(p >= 0 && p < table.rows, "position " + std::to_string(p) + " of " + std::to_string(table.rows));
  const Job job{x, position, table, turn == Turn::kForward ? 1.0f : -1.0f};
  threads.for_each((x.rows + kRows - 1) / kRows, [&](int piece) { rows(job, piece); });
}

}  // namespace choir::kernels
