#include "kernels/attention.h"

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/panel.h"
#include "kernels/panel_tile.h"
#include "kernels/turn.h"

namespace choir::kernels {
namespace {

constexpr int kSplit = 512;      // keys whose sums are made apart: what threads share of a long context
constexpr int kRows = 48;        // of a tile: rows of queries that look at the same keys
constexpr int kGroup = 6;        // of them are multiplied at once
constexpr int kNumbers = 16384;  // of a tile's sums, which stand on the stack
constexpr int kAhead = 1024;     // numbers: from what is read to what memory is asked for
constexpr float kNone = std::numeric_limits<float>::lowest();  // the largest of no scores
constexpr float kInfinity = std::numeric_limits<float>::infinity();
static_assert(kSplit % kKeyBlock == 0 && kRows % kLanes == 0 && kGroup == kPanelTile && kKeyBlock <= kPanelDepth);

// One row of queries of one head.
struct Query {
  const float* q;
  float *out, *log_sum, *room;
  int begin, end;  // the visible keys
  float sink;      // minus infinity is none

  bool sees(int split) const { return begin < (split + 1) * kSplit && end > split * kSplit; }
};

// Up to kRows of them, of one key-value head of one sequence, in the order of their tokens.
struct Tile {
  Query query[kRows];
  int rows;
  bool blocks;
  const float *k, *v;            // of the sequence's first position
  ptrdiff_t k_stride, v_stride;  // between rows; blocks follow one another
  int width, values;
  float scale;

  int begin() const {
    int first = query[0].begin;
    for (int r = 1; r < rows; ++r) first = std::min(first, query[r].begin);
    return first;
  }
  int end() const {
    int last = query[0].end;
    for (int r = 1; r < rows; ++r) last = std::max(last, query[r].end);
    return last;
  }
};

// What the rows have gathered of the keys of one split: sum_j e^(s_j - peak) v_j, and the same sum without v.
struct Sums {
  alignas(64) float numbers[kNumbers], peak[kRows], total[kRows];
};

// Some keys of one split, [begin, end), from the first of a block on.
struct Range {
  const Tile& tile;
  int begin, end;
  Sums& sums;
};

// The scores of a block of keys, which become its weights, and the keys of the block that each row sees, and each group
// of rows: [low, high).
struct Block {
  alignas(64) float score[kRows][kKeyBlock];
  alignas(64) float room[kPanelDepth * kKeyBlock];  // for keys and values that do not lie in blocks
  int low[kRows], high[kRows], group_low[kRows], group_high[kRows];
  int first, count;

  Block(const Tile& tile, int begin, int end) : first(begin), count(std::min(kKeyBlock, end - begin)) {
    for (int r = 0; r < tile.rows; ++r) {
      low[r] = std::clamp(tile.query[r].begin - first, 0, count);
      high[r] = std::clamp(tile.query[r].end - first, 0, count);
      int& begins = group_low[r / kGroup];
      int& ends = group_high[r / kGroup];
      begins = r % kGroup == 0 ? low[r] : std::min(begins, low[r]);
      ends = r % kGroup == 0 ? high[r] : std::max(ends, high[r]);
    }
  }
};

// Calls body<R>() with R = rows.
template <int R = kGroup, class Body>
CHOIR_INLINE void with_rows(int rows, const Body& body) {
  if constexpr (R > 1)
    if (rows < R) return with_rows<R - 1>(rows, body);
  body.template operator()<R>();
}

// The first group of rows asks memory for what the head's blocks have 4 KB later, every other line of it: the machine
// fetches the line beside. One thread then reads 25 GB/s for one row and 23 for four, of the 29 that it can. With all
// lines it is 18 for four rows, as with none: what is asked for stands in the way of what is needed.
template <int R>
struct FetchingScalars {
  RowScalars<R> rows;
  const float* ahead;
  CHOIR_INLINE float operator()(int r, int p) const {
    if (r == 0)
      for (int line = 0; line < kKeyBlock; line += 2 * kLanes) __builtin_prefetch(ahead + p * kKeyBlock + line, 0, 2);
    return rows(r, p);
  }
};

struct Columns {
  int begin, end;
};

// A product with some columns of a panel, rounded to sixteens.
template <class Set, int R, class Scalars>
CHOIR_INLINE void columns_of(const Scalars& a, const PanelRows& b, const Columns& columns, const Results& to) {
  constexpr int kWide = Set::kColumns * kLanes;
  const int end = columns.end;
  int c = columns.begin / kLanes * kLanes;
  if constexpr (Set::kColumns > 1)
    for (; c + kWide - kLanes < end; c += kWide)
      Set::template tile<R, Set::kColumns>(a, {b.first + c, b.step, b.count}, {to.y + c, to.stride, to.add});
  for (; c < end; c += kLanes)
    Set::template tile<R, 1>(a, {b.first + c, b.step, b.count}, {to.y + c, to.stride, to.add});
}

// to[c][j] = the numbers c < depth of key j < count; keys up to the next multiple of sixteen are zeros.
template <int W>
CHOIR_INLINE void turn_keys(const float* k, ptrdiff_t stride, int count, int depth, float* to) {
  for (int j = 0; j < count; j += kLanes)
    for (int c = 0; c < depth; c += kLanes) {
      if constexpr (W == kLanes) {
        Vec rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = j + i < count ? load(k + (j + i) * stride + c, depth - c) : Vec{};
        turn(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + (c + i) * kKeyBlock + j, rows[i]);
      } else {
        for (int i = 0; i < kLanes; ++i)
          for (int d = c; d < std::min(depth, c + kLanes); ++d)
            to[d * kKeyBlock + j + i] = j + i < count ? k[(j + i) * stride + d] : 0;
      }
    }
}

template <class Set, int R>
CHOIR_INLINE void multiply(bool fetch, const RowScalars<R>& a, const PanelRows& b, const Columns& columns,
                           const Results& to) {
  if (fetch)
    columns_of<Set, R>(FetchingScalars<R>{a, b.first + kAhead}, b, columns, to);
  else
    columns_of<Set, R>(a, b, columns, to);
}

// score[r][j] = q_r . k_j of the keys that a group sees: a chain over the numbers, broken every kPanelDepth of them.
template <class Set>
CHOIR_INLINE void all_scores(const Tile& tile, Block& b) {
  for (int c = 0; c < tile.width; c += kPanelDepth) {
    const int depth = std::min(kPanelDepth, tile.width - c);
    const float* keys = b.room;
    if (tile.blocks)
      keys = tile.k + b.first * tile.width + c * kKeyBlock;
    else
      turn_keys<Set::kWidth>(tile.k + b.first * tile.k_stride + c, tile.k_stride, b.count, depth, b.room);
    for (int first = 0; first < tile.rows; first += kGroup)
      with_rows(tile.rows - first, [&]<int R>() {
        RowScalars<R> q;
        for (int r = 0; r < R; ++r) q.row[r] = tile.query[first + r].q + c;
        multiply<Set>(tile.blocks && first == 0, q, {keys, kKeyBlock, depth},
                      {b.group_low[first / kGroup], b.group_high[first / kGroup]}, {b.score[first], kKeyBlock, c > 0});
      });
  }
}

struct Larger {
  CHOIR_INLINE Vec operator()(Vec a, Vec b) const { return max(a, b); }
};
struct Plus {
  CHOIR_INLINE Vec operator()(Vec a, Vec b) const { return a + b; }
};

// Lane r = the largest or the sum of the lanes of rows[r].
template <int W>
CHOIR_INLINE Vec largest_of(Vec (&rows)[kLanes]) {
  if constexpr (W == kLanes) return fold_rows(rows, Larger());
  float all[kLanes];
  for (int r = 0; r < kLanes; ++r) all[r] = largest(rows[r]);
  return load(all);
}

template <int W>
CHOIR_INLINE Vec sums_of(Vec (&rows)[kLanes]) {
  if constexpr (W == kLanes) return fold_rows(rows, Plus());
  float all[kLanes];
  for (int r = 0; r < kLanes; ++r) all[r] = sum(rows[r]);
  return load(all);
}

CHOIR_INLINE Vec peak_of(const float* score, int low, int high, float scale) {
  Vec peak = broadcast(kNone);
  for (int j = low; j < high; j += kLanes) peak = max(load(score + j, high - j, -kInfinity) * scale, peak);
  return peak;
}

// From scores to e^(score - peak), and to 0 where the row does not see the key.
CHOIR_INLINE Vec weigh_row(float* score, int low, int high, float scale, float peak) {
  Vec sums{};
  for (int j = low; j < high; j += kLanes) {
    const Vec e = exp(load(score + j, high - j, -kInfinity) * scale - peak);
    sums += e;
    store(score + j, e, high - j);
  }
  std::fill_n(score, low, 0.0f);
  std::fill(score + high, score + kKeyBlock, 0.0f);
  return sums;
}

// Softmax over blocks of keys with a running maximum (arXiv 1805.02867): when a block raises it, what is summed so far
// shrinks by e^(old - new). Sixteen rows at a time: what has to wait for a row's maximum has fifteen others to do.
template <int W>
CHOIR_INLINE void weigh(const Tile& tile, Block& b, Sums& sums) {
  const int columns = in_sixteens(tile.values);
  for (int first = 0; first < tile.rows; first += kLanes) {
    const int rows = std::min(kLanes, tile.rows - first);
    alignas(64) float raised[kLanes], shrink[kLanes];
    Vec of_rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int r = std::min(first + i, tile.rows - 1);
      of_rows[i] = i < rows ? peak_of(b.score[r], b.low[r], b.high[r], tile.scale) : broadcast(kNone);
    }
    const Vec before = load(sums.peak + first), peak = max(largest_of<W>(of_rows), before), less = exp(before - peak);
    store(sums.peak + first, peak);
    store(raised, peak);
    store(shrink, less);
    for (int i = 0; i < kLanes; ++i) {
      const int r = std::min(first + i, tile.rows - 1);
      of_rows[i] = i < rows ? weigh_row(b.score[r], b.low[r], b.high[r], tile.scale, raised[i]) : Vec{};
    }
    store(sums.total + first, load(sums.total + first) * less + sums_of<W>(of_rows));
    for (int i = 0; i < rows; ++i)
      if (shrink[i] != 1)
        for (float *at = sums.numbers + (first + i) * columns, *end = at + columns; at < end; at += kLanes)
          store(at, load(at) * shrink[i]);
  }
}

// Rows of values lie far apart, often in the same few sets of a cache: a copy of some of their columns does not.
CHOIR_INLINE void copy_values(const float* v, ptrdiff_t stride, int count, int left, float* to) {
  for (int j = 0; j < count; ++j)
    for (int c = 0; c < std::min(left, kValuePanel); c += kLanes, to += kLanes)
      store(to, load(v + j * stride + c, left - c));
}

// numbers_r += sum_j weight_rj v_j, in the order of j.
template <class Set>
CHOIR_INLINE void all_values(const Tile& tile, Block& b, Sums& sums) {
  const int columns = in_sixteens(tile.values);
  for (int c = 0; c < tile.values; c += kValuePanel) {
    const int width = value_panel(tile.values, c);
    const float* values = b.room;
    if (tile.blocks)
      values = tile.v + b.first * columns + c * kKeyBlock;
    else
      copy_values(tile.v + b.first * tile.v_stride + c, tile.v_stride, b.count, tile.values - c, b.room);
    for (int first = 0; first < tile.rows; first += kGroup)
      with_rows(tile.rows - first, [&]<int R>() {
        const int low = b.group_low[first / kGroup], high = b.group_high[first / kGroup];
        RowScalars<R> weight;
        for (int r = 0; r < R; ++r) weight.row[r] = b.score[first + r] + low;
        multiply<Set>(tile.blocks && first == 0 && width == kValuePanel, weight,
                      {values + low * width, width, high - low}, {0, width},
                      {sums.numbers + first * columns + c, columns, true});
      });
  }
}

// Blocks and splits are counted from position 0, and a key that a row does not see adds 0 times its value: a row is
// computed in the same way alone and among others.
template <class Set>
CHOIR_INLINE void range_body(const Range& range) {
  const Tile& tile = range.tile;
  std::fill_n(range.sums.peak, kRows, kNone);
  std::fill_n(range.sums.total, kRows, 0.0f);
  std::fill_n(range.sums.numbers, tile.rows * in_sixteens(tile.values), 0.0f);
  for (int first = range.begin; first < range.end; first += kKeyBlock) {
    Block b(tile, first, range.end);
    all_scores<Set>(tile, b);
    weigh<Set::kWidth>(tile, b, range.sums);
    all_values<Set>(tile, b, range.sums);
  }
}

void range_plain(const Range& r) { range_body<PlainTile>(r); }
CHOIR_AVX2 void range_avx2(const Range& r) { range_body<Avx2Tile>(r); }
CHOIR_AVX512 void range_avx512(const Range& r) { range_body<Avx512Tile>(r); }
constexpr Versions<void(const Range&)> sum_range{range_plain, range_avx2, range_avx512};

void sum_split(const Tile& tile, int split, Sums& sums) {
  const int begin = tile.begin() / kKeyBlock * kKeyBlock, end = tile.end();
  sum_range(Range{tile, std::max(begin, split * kSplit), std::min(end, (split + 1) * kSplit), sums});
}

// What a row has gathered so far, or in one split.
struct Gathered {
  float *numbers, peak, total;
};

// The splits of a row are put together in their order, whoever summed them.
struct Merge {
  Gathered& to;
  const Gathered& split;
  int values;
  bool first;
};

CHOIR_INLINE void merge_body(const Merge& m) {
  if (m.first) {
    std::copy_n(m.split.numbers, m.values, m.to.numbers);
    m.to.peak = m.split.peak;
    m.to.total = m.split.total;
    return;
  }
  const float rise = m.split.peak - m.to.peak, less = exp(broadcast(-std::abs(rise)))[0];
  const float keep = rise > 0 ? less : 1, take = rise > 0 ? 1 : less;
  for (int c = 0; c < m.values; c += kLanes) {
    const int left = m.values - c;
    store(m.to.numbers + c, load(m.to.numbers + c, left) * keep + load(m.split.numbers + c, left) * take, left);
  }
  m.to.total = m.to.total * keep + m.split.total * take;
  m.to.peak = std::max(m.to.peak, m.split.peak);
}

void merge_plain(const Merge& m) { merge_body(m); }
CHOIR_AVX2 void merge_avx2(const Merge& m) { merge_body(m); }
CHOIR_AVX512 void merge_avx512(const Merge& m) { merge_body(m); }
constexpr Versions<void(const Merge&)> merge{merge_plain, merge_avx2, merge_avx512};

// A sink takes its share last.
void finish(const Query& query, const Gathered& row, int values) {
  const float peak = std::max(row.peak, query.sink), keep = std::exp(row.peak - peak);
  const float total = row.total * keep + std::exp(query.sink - peak), share = keep / total;
  for (int c = 0; c < values; ++c) query.out[c] *= share;
  *query.log_sum = peak + std::log(total);
}

// All splits, one after the other.
void whole_tile(const Tile& tile) {
  Sums sums;
  Gathered rows[kRows];
  const int end = tile.end(), columns = in_sixteens(tile.values);
  for (int r = 0; r < tile.rows; ++r) rows[r] = {tile.query[r].out, 0, 0};
  for (int split = tile.begin() / kSplit; split * kSplit < end; ++split) {
    sum_split(tile, split, sums);
    for (int r = 0; r < tile.rows; ++r) {
      const Query& query = tile.query[r];
      if (query.sees(split))
        merge(Merge{rows[r],
                    {sums.numbers + r * columns, sums.peak[r], sums.total[r]},
                    tile.values,
                    split == query.begin / kSplit});
    }
  }
  for (int r = 0; r < tile.rows; ++r) finish(tile.query[r], rows[r], tile.values);
}

// One split, whose sums wait in the room of their rows: values, peak and total of each.
void one_split(const Tile& tile, int split) {
  Sums sums;
  const int columns = in_sixteens(tile.values);
  if (split < tile.begin() / kSplit || split * kSplit >= tile.end()) return;
  sum_split(tile, split, sums);
  for (int r = 0; r < tile.rows; ++r) {
    float* to = tile.query[r].room + split * (tile.values + 2);
    to = std::copy_n(sums.numbers + r * columns, tile.values, to);
    *to++ = sums.peak[r];
    *to++ = sums.total[r];
  }
}

void merge_splits(const Tile& tile) {
  for (const Query& query : std::span(tile.query, static_cast<size_t>(tile.rows))) {
    Gathered row{query.out, 0, 0};
    for (int split = query.begin / kSplit; split * kSplit < query.end; ++split) {
      float* from = query.room + split * (tile.values + 2);
      merge(Merge{row, {from, from[tile.values], from[tile.values + 1]}, tile.values, split == query.begin / kSplit});
    }
    finish(query, row, tile.values);
  }
}

struct Forward {
  const AttentionInput& in;
  Matrix<float> out, log_sum;
};

// A key-value head with many query heads is shared out, `parts` of each, and so are the tokens of a long sequence: a
// piece is as many rows of tokens and heads as a tile takes.
struct Pieces {
  int group, heads, parts, tokens, chunks, splits;

  explicit Pieces(const AttentionInput& in) : chunks(0), splits(0) {
    const int rows = std::clamp(kNumbers / in_sixteens(in.shape.values()), 1, kRows);
    group = in.shape.heads / in.shape.kv_heads;
    heads = std::min(group, rows);
    parts = (group + heads - 1) / heads;
    tokens = rows / heads;
    for (const Sequence& s : in.sequences) {
      chunks = std::max(chunks, (s.count + tokens - 1) / tokens);
      splits = std::max(splits, (s.first + s.count + kSplit - 1) / kSplit);
    }
    if (in.shape.window > 0 && in.shape.window + tokens <= kSplit) splits = 1;  // two at most: nothing to share out
  }

  bool few() const { return chunks == 1 && splits > 1; }
};

// Tokens chunk * tokens and so on of part `part` of the heads; short sequences have empty pieces.
Tile tile_of(const Forward& f, const Pieces& pieces, const Sequence& s, int part, int chunk) {
  const AttentionShape& shape = f.in.shape;
  const int kv_head = part / pieces.parts, last_head = (kv_head + 1) * pieces.group;
  const int head = kv_head * pieces.group + part % pieces.parts * pieces.heads;
  const int blocks = f.in.blocks;
  Tile tile;
  tile.rows = 0;
  tile.blocks = blocks > 0;
  if (tile.blocks) {
    const int block = first_block(shape, s, kv_head, blocks);
    tile.k = f.in.k[block];
    tile.v = f.in.v[block];
  } else {
    tile.k = f.in.k[s.kv_row] + kv_head * shape.head_width;
    tile.v = f.in.v[s.kv_row] + kv_head * shape.values();
  }
  tile.k_stride = f.in.k.stride;
  tile.v_stride = f.in.v.stride;
  tile.width = shape.head_width;
  tile.values = shape.values();
  tile.scale = shape.factor();
  const ptrdiff_t split_numbers = static_cast<ptrdiff_t>(pieces.splits) * (shape.values() + 2);
  for (int t = chunk * pieces.tokens; t < std::min(s.count, (chunk + 1) * pieces.tokens); ++t)
    for (int h = head; h < std::min(last_head, head + pieces.heads); ++h) {
      const int row = s.row + t, position = s.first + t, n = f.log_sum.rows;
      const ptrdiff_t place = static_cast<ptrdiff_t>(row) * shape.heads + h;
      tile.query[tile.rows++] = {f.in.by_heads ? f.in.q[h * n + row] : f.in.q[row] + h * shape.head_width,
                                 f.in.by_heads ? f.out[h * n + row] : f.out[row] + h * shape.values(),
                                 f.log_sum[row] + h,
                                 f.in.room.empty() ? nullptr : f.in.room.data() + place * split_numbers,
                                 shape.window > 0 ? std::max(0, position + 1 - shape.window) : 0,
                                 position + 1,
                                 f.in.sinks.empty() ? -kInfinity : f.in.sinks[static_cast<size_t>(h)]};
    }
  return tile;
}

}  // namespace

void check_blocks(const AttentionShape& shape, const Sequence& s, int blocks, int rows) {
  CHOIR_CHECK(blocks > 0 && s.first >= 0 && s.kv_row >= 0 && s.first + s.count <= blocks * kKeyBlock &&
                  s.kv_row % (blocks * kKeyBlock) == 0 && first_block(shape, s, shape.kv_heads, blocks) <= rows,
              std::to_string(s.first + s.count) + " positions from " + std::to_string(s.kv_row) + " on, in " +
                  std::to_string(blocks) + " blocks of each head");
}

void check_attention(const AttentionInput& in, Matrix<const float> out, Matrix<const float> log_sum) {
  const AttentionShape& s = in.shape;
  CHOIR_CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.head_width > 0 && in_sixteens(s.values()) <= kNumbers,
              std::to_string(s.heads) + " heads, " + std::to_string(s.kv_heads) + " key-value heads");
  const int k_cols = in.blocks > 0 ? s.key_block() : s.kv_heads * s.head_width,
            v_cols = in.blocks > 0 ? s.value_block() : s.kv_heads * s.values();
  const int apart = in.by_heads ? s.heads : 1, beside = s.heads / apart;  // heads in rows and in columns
  CHOIR_CHECK(
      in.q.cols == beside * s.head_width && in.k.cols == k_cols && in.v.cols == v_cols,
      std::to_string(in.q.cols) + ", " + std::to_string(in.k.cols) + " and " + std::to_string(in.v.cols) + " columns");
  CHOIR_CHECK(out.rows == in.q.rows && out.cols == beside * s.values() && log_sum.rows * apart == in.q.rows &&
                  log_sum.cols == s.heads,
              std::to_string(out.rows) + " x " + std::to_string(out.cols));
  CHOIR_CHECK(in.sinks.empty() || in.sinks.size() == static_cast<size_t>(s.heads),
              std::to_string(in.sinks.size()) + " sinks");
  const int keys = std::min(in.k.rows, in.v.rows);
  for (const Sequence& q : in.sequences) {
    CHOIR_CHECK(q.row >= 0 && q.first >= 0 && q.kv_row >= 0 && q.row + q.count <= log_sum.rows &&
                    (in.blocks > 0 || q.kv_row + q.first + q.count <= keys),
                std::to_string(q.count) + " rows from position " + std::to_string(q.first));
    if (in.blocks > 0) check_blocks(s, q, in.blocks, keys);
  }
}

size_t attention_room(const AttentionInput& in) {
  const Pieces pieces(in);
  const size_t rows = static_cast<size_t>(in.by_heads ? in.q.rows : in.q.rows * in.shape.heads);
  return pieces.few() ? rows * static_cast<size_t>(pieces.splits) * static_cast<size_t>(in.shape.values() + 2) : 0;
}

void attention_forward(const AttentionInput& in, Matrix<float> out, Matrix<float> log_sum, Threads& threads) {
  check_attention(in, out, log_sum);
  const Forward f{in, out, log_sum};
  const Pieces pieces(in);
  const int count = static_cast<int>(in.sequences.size()), parts = in.shape.kv_heads * pieces.parts;
  const auto sequence = [&](int i) -> const Sequence& { return in.sequences[static_cast<size_t>(i)]; };
  if (pieces.few() && in.room.size() >= attention_room(in)) {
    const auto tile = [&](int i) { return tile_of(f, pieces, sequence(i / parts), i % parts, 0); };
    threads.for_each(count * parts * pieces.splits, [&](int piece) {
      const Tile t = tile(piece / pieces.splits);
      if (t.rows > 0) one_split(t, piece % pieces.splits);
    });
    threads.for_each(count * parts, [&](int piece) { merge_splits(tile(piece)); });
    return;
  }
  threads.for_each(count * parts * pieces.chunks, [&](int piece) {
    const int chunk = pieces.chunks - 1 - piece % pieces.chunks;  // the longest first
    const Tile t = tile_of(f, pieces, sequence(piece / (parts * pieces.chunks)), piece / pieces.chunks % parts, chunk);
    if (t.rows > 0) whole_tile(t);
  });
}

}  // namespace choir::kernels
