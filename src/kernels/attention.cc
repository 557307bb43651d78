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

constexpr int kKeys = 64;     // of a block: their scores stand on the stack
constexpr int kQueries = 16;  // rows of a piece of the forward
constexpr int kHeads = 8;     // heads of a piece
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// `count` rows of one head, `width` wide, from position 0 of one sequence on.
template <class T>
struct Rows {
  T* data;
  ptrdiff_t stride;

  T* operator[](int i) const { return data + i * stride; }
  Rows from(int i) const { return {data + i * stride, stride}; }
  Rows columns_from(int c) const { return {data + c, stride}; }
};

using Source = Rows<const float>;
using Target = Rows<float>;

// result[j] = a . row_j for the first K rows. One sum per row, so K does not change the result.
template <int W, int K>
CHOIR_INLINE void dot_some(const float* a, Source rows, int width, float* result) {
  Lanes<W> total[K] = {};
  int c = 0;
  for (; c + kLanes <= width; c += kLanes) {
    const Lanes<W> v = load_lanes<W>(a + c);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) multiply_add(total[k], load_lanes<W>(rows[k] + c), v);
  }
  if (c < width) {
    const Lanes<W> v = load_lanes_part<W>(a + c, width - c);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) multiply_add(total[k], load_lanes_part<W>(rows[k] + c, width - c), v);
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) result[k] = sum(total[k]);
}

template <int W>
CHOIR_INLINE void dot_rows(const float* a, Source rows, int count, int width, float* result) {
  int j = 0;
  for (; j + 4 <= count; j += 4) dot_some<W, 4>(a, rows.from(j), width, result + j);
  for (; j < count; ++j) dot_some<W, 1>(a, rows.from(j), width, result + j);
}

struct Combination {
  const float* weight;
  Source rows;
  int count;
};

// C vectors of columns: total = keep * total + sum_j weight_j row_j, in the order of j.
template <int W, int C>
CHOIR_INLINE void combine_columns(float* total, float keep, const Combination& of) {
  Lanes<W> sums[C] = {};
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) multiply_add(sums[c], load_lanes<W>(total + c * kLanes), keep);
  for (int j = 0; j < of.count; ++j) {
    const float* row = of.rows[j];
    const float weight = of.weight[j];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) multiply_add(sums[c], load_lanes<W>(row + c * kLanes), weight);
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) store_lanes<W>(total + c * kLanes, sums[c]);
}

CHOIR_INLINE void combine_last_columns(float* total, float keep, const Combination& of, int left) {
  for (int c = 0; c < left; ++c) total[c] *= keep;
  for (int j = 0; j < of.count; ++j)
    for (int c = 0; c < left; ++c) total[c] += of.rows[j][c] * of.weight[j];
}

template <int W>
CHOIR_INLINE void combine_rows(float* total, float keep, const Combination& of, int width) {
  int c = 0;
  for (; c + 4 * kLanes <= width; c += 4 * kLanes)
    combine_columns<W, 4>(total + c, keep, {of.weight, of.rows.columns_from(c), of.count});
  for (; c + kLanes <= width; c += kLanes)
    combine_columns<W, 1>(total + c, keep, {of.weight, of.rows.columns_from(c), of.count});
  if (c < width) combine_last_columns(total + c, keep, {of.weight, of.rows.columns_from(c), of.count}, width - c);
}

int first_visible(int position, int window) { return window > 0 ? std::max(0, position + 1 - window) : 0; }

// One query row of one head.
struct Query {
  const float* q;
  Source k, v;
  int begin, end;  // the visible keys
  int width, values;
  float scale, sink;  // a sink of minus infinity is none
};

// Softmax over blocks of keys with a running maximum (arXiv 1805.02867): when a block raises the maximum, what is
// summed so far shrinks by e^(old - new). The blocks are counted from the first visible key, so a row is computed in
// the same way alone and among others. A sink is what the sum begins with.
template <int W>
CHOIR_INLINE float forward_row(const Query& at, float* out) {
  float weight[kKeys];
  float peak = at.sink, total = at.sink > -kInfinity ? 1 : 0;
  std::fill_n(out, at.values, 0.0f);
  for (int begin = at.begin; begin < at.end; begin += kKeys) {
    const int count = std::min(kKeys, at.end - begin);
    dot_rows<W>(at.q, at.k.from(begin), count, at.width, weight);
    Vec peaks = broadcast(-kInfinity);
    for (int j = 0; j < count; j += kLanes) peaks = max(load(weight + j, count - j, -kInfinity) * at.scale, peaks);
    const float raised = std::max(peak, largest(peaks));
    const float shrink = exp(broadcast(peak - raised))[0];
    Vec sums{};
    for (int j = 0; j < count; j += kLanes) {
      const Vec e = exp(load(weight + j, count - j, -kInfinity) * at.scale - raised);
      sums += e;
      store(weight + j, e);
    }
    total = total * shrink + sum(sums);
    peak = raised;
    combine_rows<W>(out, shrink, {weight, at.v.from(begin), count}, at.values);
  }
  const float share = 1 / total;
  for (int c = 0; c < at.values; c += kLanes) store(out + c, load(out + c, at.values - c) * share, at.values - c);
  return peak + std::log(total);
}

struct Forward {
  const AttentionInput& in;
  Matrix<float> out, log_sum;
};

CHOIR_INLINE Query query_of(const AttentionInput& in, const Sequence& s, int row, int head) {
  const AttentionShape& shape = in.shape;
  const int kv_head = head / (shape.heads / shape.kv_heads), position = s.first + row;
  return {in.q[s.row + row] + head * shape.head_width,
          {in.k[s.kv_row] + kv_head * shape.head_width, in.k.stride},
          {in.v[s.kv_row] + kv_head * shape.values(), in.v.stride},
          first_visible(position, shape.window),
          position + 1,
          shape.head_width,
          shape.values(),
          shape.factor(),
          in.sinks.empty() ? -kInfinity : in.sinks[static_cast<size_t>(head)]};
}

int chunks(const AttentionInput& in) {
  int most = 0;
  for (const Sequence& s : in.sequences) most = std::max(most, (s.count + kQueries - 1) / kQueries);
  return most;
}

struct Heads {
  int begin, end;
};

// A key-value head with many query heads is shared out: `parts` of each.
int parts_of(const AttentionShape& shape) { return (shape.heads / shape.kv_heads + kHeads - 1) / kHeads; }
Heads heads_of(const AttentionShape& shape, int part) {
  const int group = shape.heads / shape.kv_heads, parts = parts_of(shape);
  const int first = part / parts * group, begin = part % parts * kHeads;
  return {first + begin, first + std::min(group, begin + kHeads)};
}

// A piece is one chunk of rows of some heads of one sequence; short sequences have empty pieces.
template <int W>
CHOIR_INLINE void forward_body(const Forward& f, int chunk, Heads heads, const Sequence& s) {
  const int end = std::min(s.count, (chunk + 1) * kQueries);
  for (int row = chunk * kQueries; row < end; ++row)
    for (int head = heads.begin; head < heads.end; ++head)
      f.log_sum[s.row + row][head] =
          forward_row<W>(query_of(f.in, s, row, head), f.out[s.row + row] + head * f.in.shape.values());
}

using ForwardPiece = void(const Forward&, int, Heads, const Sequence&);
void forward_plain(const Forward& f, int chunk, Heads heads, const Sequence& s) { forward_body<4>(f, chunk, heads, s); }
CHOIR_AVX2 void forward_avx2(const Forward& f, int chunk, Heads heads, const Sequence& s) {
  forward_body<8>(f, chunk, heads, s);
}
CHOIR_AVX512 void forward_avx512(const Forward& f, int chunk, Heads heads, const Sequence& s) {
  forward_body<16>(f, chunk, heads, s);
}
constexpr Versions<ForwardPiece> forward_piece{forward_plain, forward_avx2, forward_avx512};

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
  const int chunk_count = chunks(in), parts = in.shape.kv_heads * parts_of(in.shape);
  threads.for_each(static_cast<int>(in.sequences.size()) * parts * chunk_count, [&](int piece) {
    const Sequence& s = in.sequences[static_cast<size_t>(piece / (parts * chunk_count))];
    forward_piece(f, piece % chunk_count, heads_of(in.shape, piece / chunk_count % parts), s);
  });
}

}  // namespace choir::kernels
