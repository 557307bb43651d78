#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/lanes.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kDepth = 64;  // numbers of queries and keys that are multiplied in one go: a block of them stays near
constexpr int kKeys = 64;   // of a block: their scores stand on the stack
constexpr int kFew = 3;     // rows that read keys and values where they lie
constexpr int kRows = 32;   // of a tile: rows of queries that look at the same keys
constexpr int kHeads = 8;   // heads of a piece
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row of queries of one head.
struct Query {
  const float* q;
  float *out, *log_sum;
  int begin, end;  // the visible keys
  float sink;      // minus infinity is none
};

// Up to kRows of them, of one key-value head of one sequence, in the order of their tokens.
struct Tile {
  Query query[kRows];
  int rows;
  const float *k, *v;  // of the sequence's first position
  ptrdiff_t k_stride, v_stride;
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

// Sixteen rows of sixteen numbers become their columns: halves change places, then quarters, and so on.
template <int Half>
CHOIR_INLINE void exchange(Vec (&rows)[kLanes]) {
  IntVec first{}, second{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    first[i] = i & Half ? kLanes + i - Half : i;
    second[i] = i & Half ? kLanes + i : i + Half;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & Half) continue;
    const Vec a = rows[i], b = rows[i + Half];
    rows[i] = __builtin_shuffle(a, b, first);
    rows[i + Half] = __builtin_shuffle(a, b, second);
  }
}

// to[c][j] = the numbers c < depth of key j < count; keys up to the next multiple of sixteen are zeros.
template <int W>
CHOIR_INLINE void turn_keys(const float* k, ptrdiff_t stride, int count, int depth, float (*to)[kKeys]) {
  for (int j = 0; j < count; j += kLanes)
    for (int c = 0; c < depth; c += kLanes) {
      if constexpr (W == kLanes) {
        Vec rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = j + i < count ? load(k + (j + i) * stride + c, depth - c) : Vec{};
        exchange<8>(rows);
        exchange<4>(rows);
        exchange<2>(rows);
        exchange<1>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to[c + i] + j, rows[i]);
      } else {
        for (int i = 0; i < kLanes; ++i)
          for (int d = c; d < std::min(depth, c + kLanes); ++d)
            to[d][j + i] = j + i < count ? k[(j + i) * stride + d] : 0;
      }
    }
}

// For R rows and C vectors of keys: score += sum_c q_c k_c, in the order of c.
template <int W, int R, int C>
CHOIR_INLINE void add_scores(const float* const* q, const float (*k)[kKeys], int depth, float (*score)[kKeys]) {
  Lanes<W> sums[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) sums[r][v] = load_lanes<W>(score[r] + v * kLanes);
  for (int c = 0; c < depth; ++c) {
    Lanes<W> keys[C];
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) keys[v] = load_lanes<W>(k[c] + v * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < C; ++v) multiply_add(sums[r][v], keys[v], q[r][c]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) store_lanes<W>(score[r] + v * kLanes, sums[r][v]);
}

template <int W, int R>
CHOIR_INLINE void add_scores(const float* const* q, const float (*k)[kKeys], int depth, int count,
                             float (*score)[kKeys]) {
  constexpr int kVectors = W == kLanes ? 4 : 1;
  int j = 0;
  for (; j + kVectors * kLanes <= count; j += kVectors * kLanes)
    add_scores<W, R, kVectors>(q, reinterpret_cast<const float(*)[kKeys]>(k[0] + j), depth,
                               reinterpret_cast<float(*)[kKeys]>(score[0] + j));
  for (; j < count; j += kLanes)
    add_scores<W, R, 1>(q, reinterpret_cast<const float(*)[kKeys]>(k[0] + j), depth,
                        reinterpret_cast<float(*)[kKeys]>(score[0] + j));
}

// score[r][j] = q_r . k_j of a block of keys.
template <int W>
CHOIR_INLINE void all_scores(const Tile& tile, const float* k, int count, float (*score)[kKeys]) {
  alignas(64) float keys[kDepth][kKeys];
  for (int r = 0; r < tile.rows; ++r) std::fill_n(score[r], kKeys, 0.0f);
  for (int c = 0; c < tile.width; c += kDepth) {
    const int depth = std::min(kDepth, tile.width - c);
    turn_keys<W>(k + c, tile.k_stride, count, depth, keys);
    const float* q[kRows];
    for (int r = 0; r < tile.rows; ++r) q[r] = tile.query[r].q + c;
    int r = 0;
    for (; r + 4 <= tile.rows; r += 4) add_scores<W, 4>(q + r, keys, depth, count, score + r);
    for (; r < tile.rows; ++r) add_scores<W, 1>(q + r, keys, depth, count, score + r);
  }
}

// The sums of one row: softmax over blocks of keys with a running maximum (arXiv 1805.02867): when a block raises the
// maximum, what is summed so far shrinks by e^(old - new). A sink is what the sum begins with.
struct Running {
  float peak, total, shrink;
  int low, high;  // of the block, the keys that the row sees

  explicit Running(float sink = -kInfinity)
      : peak(sink), total(sink > -kInfinity ? 1 : 0), shrink(1), low(0), high(0) {}
};

// From the scores of a block to e^(score - peak).
CHOIR_INLINE void weigh(float* score, float scale, Running& row) {
  float* visible = score + row.low;
  const int count = row.high - row.low;
  Vec peaks = broadcast(-kInfinity);
  for (int j = 0; j < count; j += kLanes) peaks = max(load(visible + j, count - j, -kInfinity) * scale, peaks);
  const float raised = std::max(row.peak, largest(peaks));
  row.shrink = exp(broadcast(row.peak - raised))[0];
  Vec sums{};
  for (int j = 0; j < count; j += kLanes) {
    const Vec e = exp(load(visible + j, count - j, -kInfinity) * scale - raised);
    sums += e;
    store(visible + j, e, count - j);
  }
  row.total = row.total * row.shrink + sum(sums);
  row.peak = raised;
}

// R rows of outputs and what they add: for c < C vectors of columns, out_r = keep_r out_r + sum_j weight_rj v_j in the
// order of j, of the keys from `first` on.
template <int R>
struct Mix {
  float* out[R];
  const float* weight[R];
  float keep[R];
  const float* v;
  ptrdiff_t v_stride;
  int count;
};

template <int W, int R, int C>
CHOIR_INLINE void mix_columns(const Mix<R>& m, int column) {
  Lanes<W> sums[R][C] = {};
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) multiply_add(sums[r][c], load_lanes<W>(m.out[r] + column + c * kLanes), m.keep[r]);
  const float* v = m.v + column;
  for (int j = 0; j < m.count; ++j, v += m.v_stride) {
    Lanes<W> row[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) row[c] = load_lanes<W>(v + c * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) multiply_add(sums[r][c], row[c], m.weight[r][j]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store_lanes<W>(m.out[r] + column + c * kLanes, sums[r][c]);
}

struct LastColumns {
  const float* v;
  ptrdiff_t v_stride;
  int count, left;
};

template <int W>
CHOIR_INLINE void mix_last_columns(float* out, const float* weight, float keep, const LastColumns& of) {
  Lanes<W> sums{};
  multiply_add(sums, load_lanes_part<W>(out, of.left), keep);
  for (int j = 0; j < of.count; ++j) multiply_add(sums, load_lanes_part<W>(of.v + j * of.v_stride, of.left), weight[j]);
  float all[kLanes];
  store_lanes<W>(all, sums);
  std::copy_n(all, of.left, out);
}

template <int W, int R>
CHOIR_INLINE void mix_rows(const Mix<R>& m, int values) {
  constexpr int kColumns = W == kLanes ? 4 : 1;
  int c = 0;
  for (; c + kColumns * kLanes <= values; c += kColumns * kLanes) mix_columns<W, R, kColumns>(m, c);
  for (; c + kLanes <= values; c += kLanes) mix_columns<W, R, 1>(m, c);
  for (int r = 0; c < values && r < R; ++r)
    mix_last_columns<W>(m.out[r] + c, m.weight[r], m.keep[r], {m.v + c, m.v_stride, m.count, values - c});
}

// Some columns of a block's values, as many of every key.
struct Values {
  const float* v;  // of the block's first key
  ptrdiff_t stride;
  int column, width;
};

// The keys that all of R rows see are read once for them; a row's other keys come before and behind, in their order.
template <int W, int R>
CHOIR_INLINE void add_values(const Query* query, const Values& values, const float (*weight)[kKeys],
                             const Running* rows) {
  int low = 0, high = kKeys;
  for (int r = 0; r < R; ++r) {
    low = std::max(low, rows[r].low);
    high = std::min(high, rows[r].high);
  }
  high = std::max(high, low);
  const auto alone = [&](int r, int begin, int end, float keep) {
    const Mix<1> m{{query[r].out + values.column},   {weight[r] + begin}, {keep},
                   values.v + begin * values.stride, values.stride,       end - begin};
    if (begin < end) mix_rows<W, 1>(m, values.width);
  };
  Mix<R> all;
  for (int r = 0; r < R; ++r) {
    const int seen = std::min(rows[r].high, low);
    alone(r, rows[r].low, seen, rows[r].shrink);
    all.out[r] = query[r].out + values.column;
    all.weight[r] = weight[r] + low;
    all.keep[r] = rows[r].low < seen ? 1 : rows[r].shrink;
  }
  all.v = values.v + low * values.stride;
  all.v_stride = values.stride;
  all.count = high - low;
  mix_rows<W, R>(all, values.width);
  for (int r = 0; r < R; ++r) alone(r, std::max(high, rows[r].low), rows[r].high, 1);
}

// Rows of values lie far apart, often in the same few sets of a cache: many rows read a copy.
template <int W>
CHOIR_INLINE void add_all_values(const Tile& tile, const float* v, int count, const float (*weight)[kKeys],
                                 const Running* rows) {
  if (tile.rows <= kFew) {
    for (int r = 0; r < tile.rows; ++r)
      add_values<W, 1>(tile.query + r, {v, tile.v_stride, 0, tile.values}, weight + r, rows + r);
    return;
  }
  alignas(64) float copy[kKeys][kDepth];
  for (int c = 0; c < tile.values; c += kDepth) {
    const int width = std::min(kDepth, tile.values - c);
    for (int j = 0; j < count; ++j)
      for (int i = 0; i < width; i += kLanes) store(copy[j] + i, load(v + j * tile.v_stride + c + i, width - i));
    const Values some{copy[0], kDepth, c, width};
    int r = 0;
    for (; r + 4 <= tile.rows; r += 4) add_values<W, 4>(tile.query + r, some, weight + r, rows + r);
    for (; r < tile.rows; ++r) add_values<W, 1>(tile.query + r, some, weight + r, rows + r);
  }
}

// Blocks of keys are counted from position 0, so a row is computed in the same way alone and among others.
template <int W>
CHOIR_INLINE void forward_tile(const Tile& tile) {
  float weight[kRows][kKeys];
  Running rows[kRows];
  for (int r = 0; r < tile.rows; ++r) {
    rows[r] = Running(tile.query[r].sink);
    std::fill_n(tile.query[r].out, tile.values, 0.0f);
  }
  const int end = tile.end();
  for (int first = tile.begin() / kKeys * kKeys; first < end; first += kKeys) {
    const int count = std::min(kKeys, end - first);
    all_scores<W>(tile, tile.k + first * tile.k_stride, count, weight);
    for (int r = 0; r < tile.rows; ++r) {
      rows[r].low = std::clamp(tile.query[r].begin - first, 0, count);
      rows[r].high = std::clamp(tile.query[r].end - first, 0, count);
      rows[r].shrink = 1;
      if (rows[r].low < rows[r].high) weigh(weight[r], tile.scale, rows[r]);
    }
    add_all_values<W>(tile, tile.v + first * tile.v_stride, count, weight, rows);
  }
  for (int r = 0; r < tile.rows; ++r) {
    const Query& query = tile.query[r];
    const float share = 1 / rows[r].total;
    for (int c = 0; c < tile.values; c += kLanes)
      store(query.out + c, load(query.out + c, tile.values - c) * share, tile.values - c);
    *query.log_sum = rows[r].peak + std::log(rows[r].total);
  }
}

void forward_plain(const Tile& tile) { forward_tile<4>(tile); }
CHOIR_AVX2 void forward_avx2(const Tile& tile) { forward_tile<8>(tile); }
CHOIR_AVX512 void forward_avx512(const Tile& tile) { forward_tile<16>(tile); }
constexpr Versions<void(const Tile&)> forward_tile_for{forward_plain, forward_avx2, forward_avx512};

struct Forward {
  const AttentionInput& in;
  Matrix<float> out, log_sum;
};

// A key-value head with many query heads is shared out, `parts` of each, and so are the tokens of a long sequence: a
// piece is kRows rows of tokens and heads.
struct Pieces {
  int group, heads, parts, tokens, chunks;

  explicit Pieces(const AttentionInput& in)
      : group(in.shape.heads / in.shape.kv_heads),
        heads(std::min(group, kHeads)),
        parts((group + heads - 1) / heads),
        tokens(std::max(1, kRows / heads)),
        chunks(0) {
    for (const Sequence& s : in.sequences) chunks = std::max(chunks, (s.count + tokens - 1) / tokens);
  }
};

// Tokens chunk * tokens and so on of part `part` of the heads; short sequences have empty pieces.
void forward_piece(const Forward& f, const Pieces& pieces, const Sequence& s, int part, int chunk) {
  const AttentionShape& shape = f.in.shape;
  const int kv_head = part / pieces.parts, last_head = (kv_head + 1) * pieces.group;
  const int head = kv_head * pieces.group + part % pieces.parts * pieces.heads;
  Tile tile{.query = {},
            .rows = 0,
            .k = f.in.k[s.kv_row] + kv_head * shape.head_width,
            .v = f.in.v[s.kv_row] + kv_head * shape.values(),
            .k_stride = f.in.k.stride,
            .v_stride = f.in.v.stride,
            .width = shape.head_width,
            .values = shape.values(),
            .scale = shape.factor()};
  for (int t = chunk * pieces.tokens; t < std::min(s.count, (chunk + 1) * pieces.tokens); ++t)
    for (int h = head; h < std::min(last_head, head + pieces.heads); ++h) {
      const int row = s.row + t, position = s.first + t;
      tile.query[tile.rows++] = {f.in.q[row] + h * shape.head_width,
                                 f.out[row] + h * shape.values(),
                                 f.log_sum[row] + h,
                                 shape.window > 0 ? std::max(0, position + 1 - shape.window) : 0,
                                 position + 1,
                                 f.in.sinks.empty() ? -kInfinity : f.in.sinks[static_cast<size_t>(h)]};
    }
  if (tile.rows > 0) forward_tile_for(tile);
}

}  // namespace

void check_attention(const AttentionInput& in, Matrix<const float> out, Matrix<const float> log_sum) {
  const AttentionShape& s = in.shape;
  CHOIR_CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.head_width > 0,
              std::to_string(s.heads) + " heads, " + std::to_string(s.kv_heads) + " key-value heads");
  CHOIR_CHECK(
      in.q.cols == s.heads * s.head_width && in.k.cols == s.kv_heads * s.head_width &&
          in.v.cols == s.kv_heads * s.values(),
      std::to_string(in.q.cols) + ", " + std::to_string(in.k.cols) + " and " + std::to_string(in.v.cols) + " columns");
  CHOIR_CHECK(
      out.rows == in.q.rows && out.cols == s.heads * s.values() && log_sum.rows == in.q.rows && log_sum.cols == s.heads,
      std::to_string(out.rows) + " x " + std::to_string(out.cols));
  CHOIR_CHECK(in.sinks.empty() || in.sinks.size() == static_cast<size_t>(s.heads),
              std::to_string(in.sinks.size()) + " sinks");
  const int keys = std::min(in.k.rows, in.v.rows);
  for (const Sequence& q : in.sequences)
    CHOIR_CHECK(q.row >= 0 && q.first >= 0 && q.kv_row >= 0 && q.row + q.count <= in.q.rows &&
                    q.kv_row + q.first + q.count <= keys,
                std::to_string(q.count) + " rows from position " + std::to_string(q.first));
}

void attention_forward(const AttentionInput& in, Matrix<float> out, Matrix<float> log_sum, Threads& threads) {
  check_attention(in, out, log_sum);
  const Forward f{in, out, log_sum};
  const Pieces pieces(in);
  const int parts = in.shape.kv_heads * pieces.parts;
  threads.for_each(static_cast<int>(in.sequences.size()) * parts * pieces.chunks, [&](int piece) {
    const Sequence& s = in.sequences[static_cast<size_t>(piece / (parts * pieces.chunks))];
    forward_piece(f, pieces, s, piece / pieces.chunks % parts, piece % pieces.chunks);
  });
}

}  // namespace choir::kernels
