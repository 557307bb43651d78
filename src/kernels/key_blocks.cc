#include "kernels/key_blocks.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "kernels/turn.h"

namespace choir::kernels {
namespace {

// Some positions of a block, of one head.
struct Piece {
  const float *k, *v;  // of the first of them
  ptrdiff_t k_stride, v_stride;
  float *keys, *values;  // the block's
  int slot, count;       // of the first in the block, and how many
  int width, value_width;
};

CHOIR_INLINE void turn_sixteen(const Piece& p, int from, int c) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = load(p.k + (from + i) * p.k_stride + c);
  turn(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(p.keys + (c + i) * kKeyBlock + p.slot + from, rows[i]);
}

// A position's keys go to as many lines as it has numbers: all are asked for before the first is written.
CHOIR_INLINE void scatter(const Piece& p, int from, int count, int c0) {
  float* to = p.keys + p.slot + from;
  for (int c = c0; c < p.width; ++c) __builtin_prefetch(to + c * kKeyBlock, 1);
  for (int c = c0; c < p.width; ++c)
    for (int i = 0; i < count; ++i) to[c * kKeyBlock + i] = p.k[(from + i) * p.k_stride + c];
}

template <int W>
CHOIR_INLINE void store_piece(const Piece& p) {
  int i = 0;
  while (i < p.count) {
    const int aligned = (p.slot + i) % kLanes, count = std::min(kLanes - aligned, p.count - i);
    int c = 0;
    if (W == kLanes && count == kLanes)
      for (; c + kLanes <= p.width; c += kLanes) turn_sixteen(p, i, c);
    scatter(p, i, count, c);
    i += count;
  }
  for (int c = 0; c < p.value_width; c += kValuePanel) {
    const int width = value_panel(p.value_width, c);
    for (i = 0; i < p.count; ++i)
      for (int j = 0; j < width; j += kLanes)
        store(p.values + c * kKeyBlock + (p.slot + i) * width + j,
              load(p.v + i * p.v_stride + c + j, p.value_width - c - j));
  }
}

void store_plain(const Piece& p) { store_piece<4>(p); }
CHOIR_AVX2 void store_avx2(const Piece& p) { store_piece<8>(p); }
CHOIR_AVX512 void store_avx512(const Piece& p) { store_piece<16>(p); }
constexpr Versions<void(const Piece&)> store_piece_for{store_plain, store_avx2, store_avx512};

}  // namespace

void store_keys(const AttentionInput& rows, const KeyBlocks& to, Threads& threads) {
  const AttentionShape& shape = rows.shape;
  int most = 0;  // blocks of a sequence
  for (const Sequence& s : rows.sequences) {
    check_blocks(shape, s, to.blocks, std::min(to.k.rows, to.v.rows));
    CHOIR_CHECK(s.row >= 0 && s.row + s.count <= std::min(rows.k.rows, rows.v.rows), std::to_string(s.count) + " rows");
    if (s.count > 0) most = std::max(most, (s.first + s.count - 1) / kKeyBlock - s.first / kKeyBlock + 1);
  }
  const int heads = shape.kv_heads;
  threads.for_each(static_cast<int>(rows.sequences.size()) * most * heads, [&](int piece) {
    const Sequence& s = rows.sequences[static_cast<size_t>(piece / (most * heads))];
    const int head = piece % heads, block = s.first / kKeyBlock + piece / heads % most;
    const int begin = std::max(s.first, block * kKeyBlock), end = std::min(s.first + s.count, (block + 1) * kKeyBlock);
    if (begin >= end) return;
    const int row = s.row + begin - s.first, at = first_block(shape, s, head, to.blocks) + block;
    store_piece_for(Piece{.k = rows.k[row] + head * shape.head_width,
                          .v = rows.v[row] + head * shape.values(),
                          .k_stride = rows.k.stride,
                          .v_stride = rows.v.stride,
                          .keys = to.k[at],
                          .values = to.v[at],
                          .slot = begin % kKeyBlock,
                          .count = end - begin,
                          .width = shape.head_width,
                          .value_width = shape.values()});
  });
}

}  // namespace choir::kernels
