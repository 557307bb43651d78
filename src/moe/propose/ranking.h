// How propose words walk over the rows of a batch, and over the experts of a row from the best down.
#pragma once

#include <algorithm>
#include <cmath>

#include "moe/routing.h"

namespace choir::moe {

// Hands out the places of a row of scores, best first, of equal ones the lower, those above a bound alone: never masked
// experts (-infinity) or NaN. Taking the best m of E costs E + m log E.
class Ranking {
  auto worse() const {
    return [this](int32_t a, int32_t b) {
      const float x = row_[static_cast<size_t>(a)], y = row_[static_cast<size_t>(b)];
      return x < y || (x == y && a > b);
    };
  }

 public:
  void begin(std::span<const float> row, float above = -HUGE_VALF) {
    row_ = row;
    left_.clear();
    for (size_t e = 0; e < row.size(); ++e)
      if (row[e] > above) left_.push_back(static_cast<int32_t>(e));
    std::ranges::make_heap(left_, worse());
  }
  // Those not handed out yet, in no order.
  std::span<const int32_t> left() const { return left_; }
  // -1 behind the last.
  int32_t next() {
    if (left_.empty()) return -1;
    std::ranges::pop_heap(left_, worse());
    const int32_t best = left_.back();
    left_.pop_back();
    return best;
  }

 private:
  std::span<const float> row_;
  std::vector<int32_t> left_;
};

// Calls body(t, scratch) for every row of `key`, shared out over the threads; Scratch is made anew for each piece.
template <class Scratch, class Body>
void each_row(const Context& context, Matrix<const float> key, const Body& body) {
  constexpr int kRows = 64;  // of one piece
  context.threads.for_each((key.rows + kRows - 1) / kRows, [&](int piece) {
    Scratch scratch;
    for (int t = piece * kRows; t < std::min(key.rows, (piece + 1) * kRows); ++t) body(t, scratch);
  });
}

// The slots of each token, all empty.
inline void empty_slots(int rows, int choices, std::vector<int32_t>& proposed) {
  proposed.assign(static_cast<size_t>(rows) * static_cast<size_t>(choices), -1);
}

inline std::span<int32_t> slots_of(std::vector<int32_t>& proposed, int choices, int t) {
  return std::span(proposed).subspan(static_cast<size_t>(t) * static_cast<size_t>(choices),
                                     static_cast<size_t>(choices));
}

}  // namespace choir::moe
