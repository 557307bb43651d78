// How propose words walk over the rows of a batch, and over the experts of a row from the best down.
#pragma once

#include <algorithm>
#include <cmath>

#include "moe/routing.h"

namespace choir::moe {

// Hands out the places of a row of scores, best first, of equal ones the lower, those above a bound alone: never masked
// experts (-infinity) or NaN. Taking the best m of E costs E + m log E. `room` is for E places.
class Ranking {
  auto worse() const {
    return [this](int32_t a, int32_t b) {
      const float x = row_[static_cast<size_t>(a)], y = row_[static_cast<size_t>(b)];
      return x < y || (x == y && a > b);
    };
  }

 public:
  Ranking(std::span<int32_t> room, std::span<const float> row, float above = -HUGE_VALF) : row_(row) {
    size_t count = 0;
    for (size_t e = 0; e < row.size(); ++e)
      if (row[e] > above) room[count++] = static_cast<int32_t>(e);
    left_ = room.first(count);
    std::ranges::make_heap(left_, worse());
  }
  // Those not handed out yet, in no order.
  std::span<const int32_t> left() const { return left_; }
  // -1 behind the last.
  int32_t next() {
    if (left_.empty()) return -1;
    std::ranges::pop_heap(left_, worse());
    const int32_t best = left_.back();
    left_ = left_.first(left_.size() - 1);
    return best;
  }

 private:
  std::span<const float> row_;
  std::span<int32_t> left_;
};

// How many pieces the rows are shared out in.
constexpr int kRowsOfPiece = 64;
inline int pieces_of(int rows) { return (rows + kRowsOfPiece - 1) / kRowsOfPiece; }

// Calls body(piece, t) for every row of `key`.
template <class Body>
void each_row_in_pieces(const Context& context, Matrix<const float> key, const Body& body) {
  context.threads.for_each(pieces_of(key.rows), [&](int piece) {
    for (int t = piece * kRowsOfPiece; t < std::min(key.rows, (piece + 1) * kRowsOfPiece); ++t) body(piece, t);
  });
}

// The part of a piece where `all` has as many places for each.
template <class T>
std::span<T> part_of(std::span<T> all, int pieces, int piece) {
  const size_t size = all.size() / static_cast<size_t>(pieces);
  return all.subspan(static_cast<size_t>(piece) * size, size);
}

// Calls body(t, room) for every row of `key`; room (span of T) has a place for each expert.
template <class T, class Body>
void each_row(const Context& context, Matrix<const float> key, const Body& body) {
  base::Frame frame(context.threads);
  const int pieces = pieces_of(key.rows);
  const std::span<T> rooms = frame.list<T>(static_cast<size_t>(pieces) * static_cast<size_t>(key.cols));
  each_row_in_pieces(context, key, [&](int piece, int t) { body(t, part_of(rooms, pieces, piece)); });
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
