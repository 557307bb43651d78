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
  const Rotation& rotation;
  int head_width;
  float direction;  // +1 or -1
};

// The pair (a, b) becomes (a cos - b sin, b cos + a sin).
CHOIR_INLINE void turn_halves(float* head, const float* table, int half, float direction) {
  for (int i = 0; i < half; i += kLanes) {
    const int left = half - i;
    const Vec cosine = load(table + i, left), sine = load(table + half + i, left) * direction;
    const Vec a = load(head + i, left), b = load(head + half + i, left);
    store(head + i, a * cosine - b * sine, left);
    store(head + half + i, b * cosine + a * sine, left);
  }
}

CHOIR_INLINE void turn_neighbours(float* head, const float* table, int half, float direction) {
  for (int i = 0; i < half; ++i) {
    const float cosine = table[i], sine = table[half + i] * direction;
    const float a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * cosine - b * sine;
    head[2 * i + 1] = b * cosine + a * sine;
  }
}

CHOIR_INLINE void body(const Job& job, int piece) {
  const Rotation& r = job.rotation;
  const int half = r.table.cols / 2, end = std::min(job.x.rows, (piece + 1) * kRows);
  for (int t = piece * kRows; t < end; ++t) {
    const float* table = r.table[job.position[static_cast<size_t>(t)]];
    for (int h = r.offset; h < job.x.cols; h += job.head_width) {
      float* part = job.x[t] + h;
      if (r.pairs == Pairs::kHalves)
        turn_halves(part, table, half, job.direction);
      else
        turn_neighbours(part, table, half, job.direction);
    }
  }
}

void rows_plain(const Job& job, int piece) { body(job, piece); }
CHOIR_AVX2 void rows_avx2(const Job& job, int piece) { body(job, piece); }
CHOIR_AVX512 void rows_avx512(const Job& job, int piece) { body(job, piece); }
constexpr Versions<void(const Job&, int)> rows{rows_plain, rows_avx2, rows_avx512};

}  // namespace

void rope_table(const RopeFrequencies& frequencies, Matrix<float> table) {
  const int half = table.cols / 2;
  CHOIR_CHECK(table.cols == 2 * half && frequencies.inverse.size() == static_cast<size_t>(half),
              std::to_string(table.cols) + " columns, " + std::to_string(frequencies.inverse.size()) + " frequencies");
  for (int i = 0; i < half; ++i) {
    const double inverse = frequencies.inverse[static_cast<size_t>(i)];
    for (int p = 0; p < table.rows; ++p) {
      table[p][i] = static_cast<float>(frequencies.factor * std::cos(p * inverse));
      table[p][half + i] = static_cast<float>(frequencies.factor * std::sin(p * inverse));
    }
  }
}

void rope(Matrix<float> x, std::span<const int> position, const Rotation& rotation, Turn turn, Threads& threads) {
  const Matrix<const float>& table = rotation.table;
  const int head_width = rotation.head_width > 0 ? rotation.head_width : table.cols;
  CHOIR_CHECK(table.cols > 0 && table.cols % 2 == 0 && x.cols % head_width == 0 && rotation.offset >= 0 &&
                  rotation.offset + table.cols <= head_width,
              std::to_string(x.cols) + " columns, heads of " + std::to_string(head_width) + ", " +
                  std::to_string(table.cols) + " turn from " + std::to_string(rotation.offset));
  CHOIR_CHECK(position.size() == static_cast<size_t>(x.rows), std::to_string(position.size()) + " positions");
  for (const int p : position)
    CHOIR_CHECK(p >= 0 && p < table.rows, "position " + std::to_string(p) + " of " + std::to_string(table.rows));
  const Job job{x, position, rotation, head_width, turn == Turn::kForward ? 1.0f : -1.0f};
  threads.for_each((x.rows + kRows - 1) / kRows, [&](int piece) { rows(job, piece); });
}

}  // namespace choir::kernels
