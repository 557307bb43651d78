#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/gemm_tile.h"
#include "kernels/lanes.h"
#include "kernels/vec.h"

namespace choir::kernels {
namespace {

constexpr int kKeys = 64;  // of a block: their scores stand on the stack
constexpr int kRows = 16;  // of a tile: rows of queries that look at the same keys
constexpr int kHeads = 8;  // heads of a piece
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Dot = Versions<void(const DotBlock&)>;

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

// The keys that all of R rows see are read once for them; a row's other keys come before and behind, in their order.
template <int W, int R>
CHOIR_INLINE void add_values(const Tile& tile, int first, int r0, const float (*weight)[kKeys], const Running* rows) {
  int low = 0, high = kKeys;
  for (int r = 0; r < R; ++r) {
    low = std::max(low, rows[r].low);
    high = std::min(high, rows[r].high);
  }
  high = std::max(high, low);
  const auto alone = [&](int r, int begin, int end, float keep) {
    Mix<1> m{{tile.query[r0 + r].out},
             {weight[r] + begin},
             {keep},
             tile.v + (first + begin) * tile.v_stride,
             tile.v_stride,
             end - begin};
    if (begin < end) mix_rows<W, 1>(m, tile.values);
  };
  Mix<R> all;
  for (int r = 0; r < R; ++r) {
    const int seen = std::min(rows[r].high, low);
    alone(r, rows[r].low, seen, rows[r].shrink);
    all.out[r] = tile.query[r0 + r].out;
    all.weight[r] = weight[r] + low;
    all.keep[r] = rows[r].low < seen ? 1 : rows[r].shrink;
  }
  all.v = tile.v + (first + low) * tile.v_stride;
  all.v_stride = tile.v_stride;
  all.count = high - low;
  mix_rows<W, R>(all, tile.values);
  for (int r = 0; r < R; ++r) alone(r, std::max(high, rows[r].low), rows[r].high, 1);
}

// Blocks of keys are counted from position 0, so a row is computed in the same way alone and among others.
template <int W>
CHOIR_INLINE void forward_tile(const Tile& tile, const Dot& dot) {
  float weight[kRows][kKeys];
  Running rows[kRows];
  const float* q[kRows];
  for (int r = 0; r < tile.rows; ++r) {
    rows[r] = Running(tile.query[r].sink);
    q[r] = tile.query[r].q;
    std::fill_n(tile.query[r].out, tile.values, 0.0f);
  }
  const int end = tile.end();
  for (int first = tile.begin() / kKeys * kKeys; first < end; first += kKeys) {
    const int count = std::min(kKeys, end - first);
    dot(DotBlock{q, tile.k + first * tile.k_stride, tile.k_stride, weight[0], kKeys, tile.rows, count, tile.width});
    for (int r = 0; r < tile.rows; ++r) {
      rows[r].low = std::clamp(tile.query[r].begin - first, 0, count);
      rows[r].high = std::clamp(tile.query[r].end - first, 0, count);
      rows[r].shrink = 1;
      if (rows[r].low < rows[r].high) weigh(weight[r], tile.scale, rows[r]);
    }
    int r = 0;
    for (; r + 4 <= tile.rows; r += 4) add_values<W, 4>(tile, first, r, weight + r, rows + r);
    for (; r < tile.rows; ++r) add_values<W, 1>(tile, first, r, weight + r, rows + r);
  }
  for (int r = 0; r < tile.rows; ++r) {
    const Query& query = tile.query[r];
    const float share = 1 / rows[r].total;
    for (int c = 0; c < tile.values; c += kLanes)
      store(query.out + c, load(query.out + c, tile.values - c) * share, tile.values - c);
    *query.log_sum = rows[r].peak + std::log(rows[r].total);
  }
}

using ForwardTile = void(const Tile&, const Dot&);
void forward_plain(const Tile& tile, const Dot& dot) { forward_tile<4>(tile, dot); }
CHOIR_AVX2 void forward_avx2(const Tile& tile, const Dot& dot) { forward_tile<8>(tile, dot); }
CHOIR_AVX512 void forward_avx512(const Tile& tile, const Dot& dot) { forward_tile<16>(tile, dot); }
constexpr Versions<ForwardTile> forward_tile_for{forward_plain, forward_avx2, forward_avx512};

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
  if (tile.rows > 0) forward_tile_for(tile, dot_for(tensor::DType::kF32));
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
