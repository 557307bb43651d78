#include "kernels/panel.h"

#include <algorithm>
#include <type_traits>

#include "kernels/panel_tile.h"
#include "kernels/turn.h"

namespace choir::kernels {
namespace {

constexpr int kTileRows = kPanelTile;
constexpr int kMostColumns = 64;  // of a panel of b
constexpr int kLine = 16;         // floats of a cache line
constexpr int kAhead = 8;         // rows: what a row of a panel takes to pack, against the way to memory

// Numbers of a word, and words of `depth` numbers.
template <class Word>
constexpr int kNumbers = std::is_same_v<Word, Pair> ? 2 : 1;
template <class Word>
constexpr int words_of(int depth) {
  return (depth + kNumbers<Word> - 1) / kNumbers<Word>;
}

// The words of a row that begins at `in`.
CHOIR_INLINE Vec words_from(std::type_identity<float>, const float* in) { return load(in); }
CHOIR_INLINE Vec words_from(std::type_identity<Pair>, const float* in) {
  return reinterpret_cast<Vec>(rounded_pairs(load(in), load(in + kLanes)));
}

// Sixteen rows of sixteen words, turned: word j of row i of `out` is word i of row j of `in`.
template <class Word>
CHOIR_INLINE void turn_square(const float* in, ptrdiff_t stride, Word* out, int step) {
  Vec v[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) v[i] = words_from(std::type_identity<Word>{}, in + i * stride);
  turn(v);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) std::memcpy(out + i * step, &v[i], sizeof v[i]);
}

// Sixteen numbers of the rows p of b from column j on, as far as there are any.
CHOIR_INLINE Vec row_words(std::type_identity<float>, const PanelBlock& block, int p, int, int j, int left) {
  return load(block.b_rows[p] + j, left);
}
CHOIR_INLINE Vec row_words(std::type_identity<Pair>, const PanelBlock& block, int p, int end, int j, int left) {
  const Vec later = p + 1 < end ? load(block.b_rows[p + 1] + j, left) : Vec{};
  return reinterpret_cast<Vec>(interleaved(rounded_pairs(load(block.b_rows[p] + j, left), later)));
}

template <class Word>
CHOIR_INLINE void pack_rows(const PanelBlock& block, int p0, int depth, int j0, int width, Word* panel) {
  const int cols = std::min(width, block.cols - j0), end = p0 + depth;
  for (int p = p0; p < end; p += kNumbers<Word>, panel += width) {
    for (int ahead = p + kAhead; ahead < std::min(p + kAhead + kNumbers<Word>, end); ++ahead)
      for (int c = 0; c < cols; c += kLine) __builtin_prefetch(block.b_rows[ahead] + j0 + c);
    for (int c = 0; c < width; c += kLanes) {
      const Vec words = c < cols ? row_words(std::type_identity<Word>{}, block, p, end, j0 + c, cols - c) : Vec{};
      std::memcpy(panel + c, &words, sizeof words);
    }
  }
}

// A piece of sixteen rows of a weight, filled up with zeros beyond its edges.
template <class Word>
CHOIR_INLINE void turn_edge(const float* from, ptrdiff_t stride, int depth, int cols, Word* panel, int width) {
  constexpr int kDeep = kLanes * kNumbers<Word>;
  alignas(64) float piece[kLanes][kDeep] = {};
  alignas(64) Word words[kLanes][kLanes];
  for (int c = 0; c < std::min(cols, kLanes); ++c)
    for (int k = 0; k < std::min(depth, kDeep); ++k) piece[c][k] = from[c * stride + k];
  turn_square(piece[0], kDeep, words[0], kLanes);
  for (int k = 0; k < std::min(words_of<Word>(depth), kLanes); ++k)
    std::memcpy(panel + k * width, words[k], sizeof words[k]);
}

// Columns [j0, j0 + width) of rows [p0, p0 + depth) of b, zeros past the edge.
template <class Word>
CHOIR_INLINE void pack(const PanelBlock& block, int p0, int depth, int j0, int width, Word* panel) {
  if (block.b_rows) return pack_rows(block, p0, depth, j0, width, panel);
  constexpr int kDeep = kLanes * kNumbers<Word>;
  const int cols = std::min(width, block.cols - j0);
  for (int c = 0; c < width; c += kLanes)
    for (int p = 0; p < depth; p += kDeep) {
      const float* from = block.w + (j0 + c) * block.w_stride + p0 + p;
      Word* to = panel + words_of<Word>(p) * width + c;
      if (c + kLanes <= cols && p + kDeep <= depth)
        turn_square(from, block.w_stride, to, width);
      else
        turn_edge(from, block.w_stride, depth - p, cols - c, to, width);
    }
}

// Column panels of a: kTileRows words for each of p, the last row repeated past the edge. Row after row of what lies
// contiguous, fetched ahead. Eight words move at once: the two too many are overwritten with the next, and after
// the last they fall between two panels.
constexpr int kAtOnce = 8;
template <class Word>
constexpr int kColumnPanel = words_of<Word>(kPanelDepth) * kTileRows + kLine;

// The words of p of every row of a: what lies there, or a line made from it.
CHOIR_INLINE const float* column_words(const PanelBlock& block, int p, int, float*) {
  return block.a + p * block.a_step;
}
CHOIR_INLINE const Pair* column_words(const PanelBlock& block, int p, int end, Pair* line) {
  const float *from = block.a + p * block.a_step, *later = from + block.a_step;
  for (int i = 0; i < block.rows; i += kLanes) {
    const int left = block.rows - i;
    const IntVec words = interleaved(rounded_pairs(load(from + i, left), p + 1 < end ? load(later + i, left) : Vec{}));
    std::memcpy(line + i, &words, sizeof words);
  }
  return line;
}

template <class Word>
CHOIR_INLINE void pack_columns(const PanelBlock& block, int p0, int depth, Word* panels) {
  const int whole = block.rows / kTileRows * kTileRows, rest = block.rows - whole, end = p0 + depth;
  alignas(64) Word line[kPanelRows];
  for (int p = p0; p < end; p += kNumbers<Word>, panels += kTileRows) {
    for (int ahead = p + kAhead; ahead < std::min(p + kAhead + kNumbers<Word>, end); ++ahead)
      for (int i = 0; i < block.rows; i += kLine) __builtin_prefetch(block.a + ahead * block.a_step + i);
    const Word* from = column_words(block, p, end, line);
    Word* to = panels;
    int i = 0;
    for (; i + kAtOnce <= block.rows; i += kTileRows, to += kColumnPanel<Word>)
      std::memcpy(to, from + i, kAtOnce * sizeof(Word));
    for (; i < whole; i += kTileRows, to += kColumnPanel<Word>) std::memcpy(to, from + i, kTileRows * sizeof(Word));
    for (int r = 0; rest > 0 && r < kTileRows; ++r) to[r] = from[whole + std::min(r, rest - 1)];
  }
}

// Rows of a, of kRowWords<Word> words each, where they are not read as they lie.
template <class Word>
constexpr int kRowWords = words_of<Word>(kPanelDepth);

CHOIR_INLINE void round_rows(const PanelBlock& block, int p0, int depth, Pair* rows) {
  constexpr int kDeep = 2 * kLanes;
  for (int i = 0; i < block.rows; ++i, rows += kRowWords<Pair>) {
    const float* from = block.a_rows[i] + p0;
    for (int p = 0; p < depth; p += kDeep) {
      const Vec later = p + kLanes < depth ? load(from + p + kLanes, depth - p - kLanes) : Vec{};
      const IntVec words = rounded_pairs(load(from + p, depth - p), later);
      std::memcpy(rows + p / 2, &words, sizeof words);
    }
  }
}

// The results of the next tile, where this is their first use, and the rows of a that are read as they lie: far away in
// memory, and too short for the machine to foresee.
CHOIR_INLINE void fetch_ahead(const PanelBlock& block, int i, int p0, int j0, int depth) {
  for (int r = i + kTileRows; r < std::min(i + 2 * kTileRows, block.rows); ++r) {
    for (int j = j0; p0 == 0 && j < std::min(j0 + kMostColumns, block.cols); j += kLine)
      __builtin_prefetch(block.y + r * block.y_stride + j, 1);
    for (int p = 0; p < depth; p += kLine) __builtin_prefetch(block.a_rows[r] + p0 + p);
  }
}

// A tile over the edge of the block works on a copy of its results.
template <class Set, int C, class Scalars>
CHOIR_INLINE void edge_tile(const Scalars& a, const typename Set::Word* panel, int depth, const Results& to, int rows,
                            int cols) {
  alignas(64) float out[kTileRows][C * kLanes] = {};
  for (int r = 0; to.add && r < rows; ++r)
    for (int c = 0; c < cols; ++c) out[r][c] = to.y[r * to.stride + c];
  Set::template tile<kTileRows, C>(a, {panel, C * kLanes, depth}, {out[0], C * kLanes, to.add});
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) to.y[r * to.stride + c] = out[r][c];
}

// What all columns of a block read of p0 .. p0 + depth - 1 of a: its packed columns, or its rows.
template <class Word>
struct Part {
  int p0, depth;
  Word* columns;
  Word* rows;  // null: they lie in the block
};

template <class Word>
CHOIR_INLINE RowScalars<kTileRows, Word> rows_from(const PanelBlock& block, const Part<Word>& part, int i) {
  RowScalars<kTileRows, Word> result;
  for (int r = 0; r < kTileRows; ++r) {
    const int row = std::min(i + r, block.rows - 1);
    if constexpr (std::is_same_v<Word, float>)
      result.row[r] = block.a_rows[row] + part.p0;
    else
      result.row[r] = part.rows + row * kRowWords<Word>;
  }
  return result;
}

template <class Set, int C>
CHOIR_INLINE void columns_of(const PanelBlock& block, const Part<typename Set::Word>& part, int j0) {
  using Word = typename Set::Word;
  alignas(64) Word panel[words_of<Word>(kPanelDepth) * C * kLanes];
  pack(block, part.p0, part.depth, j0, C * kLanes, panel);
  const int width = std::min(C * kLanes, block.cols - j0), depth = words_of<Word>(part.depth);
  const int first_use = std::is_same_v<Word, float> && block.a_rows && j0 == 0 ? part.depth : 0;
  const auto at = [&](const auto& a, int i) {
    const Results to{block.y + i * block.y_stride + j0, block.y_stride, block.add || part.p0 > 0};
    const int rows = std::min(kTileRows, block.rows - i);
    if (rows == kTileRows && width == C * kLanes)
      Set::template tile<kTileRows, C>(a, {panel, C * kLanes, depth}, to);
    else
      edge_tile<Set, C>(a, panel, depth, to, rows, width);
  };
  for (int i = 0; i < block.rows; i += kTileRows) {
    fetch_ahead(block, i, part.p0, j0, first_use);
    if (block.a_rows)
      at(rows_from(block, part, i), i);
    else
      at(PackedScalars<kTileRows, Word>{part.columns + i / kTileRows * kColumnPanel<Word>}, i);
  }
}

template <class Set>
CHOIR_INLINE void panel_body(const PanelBlock& block) {
  using Word = typename Set::Word;
  constexpr int C = Set::kColumns;
  constexpr bool kRounded = std::is_same_v<Word, Pair>;
  static_assert(C * kLanes <= kMostColumns);
  alignas(64) Word columns[kPanelRows / kTileRows * kColumnPanel<Word>];
  alignas(64) Word rows[kRounded ? kPanelMostRows * kRowWords<Word> : 1];
  for (int p0 = 0; p0 < block.depth; p0 += kPanelDepth) {
    const Part<Word> part{p0, std::min(kPanelDepth, block.depth - p0), columns, rows};
    if (!block.a_rows) pack_columns(block, p0, part.depth, columns);
    if constexpr (kRounded)
      if (block.a_rows) round_rows(block, p0, part.depth, rows);
    int j = 0;
    for (; j + (C - 1) * kLanes < block.cols; j += C * kLanes) columns_of<Set, C>(block, part, j);
    if constexpr (C > 1)
      for (; j < block.cols; j += kLanes) columns_of<Set, 1>(block, part, j);
  }
}

void panel_plain(const PanelBlock& block) { panel_body<PlainTile>(block); }
CHOIR_AVX2 void panel_avx2(const PanelBlock& block) { panel_body<Avx2Tile>(block); }
CHOIR_AVX512 void panel_avx512(const PanelBlock& block) { panel_body<Avx512Tile>(block); }
CHOIR_AVX512 void panel_pairs(const PanelBlock& block) { panel_body<PairTile>(block); }

}  // namespace

const Versions<void(const PanelBlock&)> kPanel{panel_plain, panel_avx2, panel_avx512};
const Versions<void(const PanelBlock&)> kRoundedPanel{panel_plain, panel_avx2, panel_avx512, panel_avx512, panel_pairs};

}  // namespace choir::kernels
