#include "kernels/attention_packed.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "kernels/panel.h"

namespace choir::kernels {
namespace {

constexpr int kQueries = 96, kKeys = 192;  // of one block: two of them and the panels fit the second cache
static_assert(kQueries <= kPanelRows && kKeys % kPanelRows == 0);
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A block of scores: row i of it is a query, column j a key.
struct Scores {
  float* at;
  CHOIR_INLINE float* row(int i) const { return at + i * kKeys; }
};

// Queries [q0, q0 + queries) of a head and keys [k0, k0 + keys) of its sequence.
struct Block {
  int q0, queries, k0, keys, window;

  // The keys of the block that query i of it sees: [begin, end).
  CHOIR_INLINE int begin(int i) const { return window > 0 ? std::clamp(q0 + i + 1 - window - k0, 0, keys) : 0; }
  CHOIR_INLINE int end(int i) const { return std::clamp(q0 + i + 1 - k0, 0, keys); }
};

struct Rows {
  std::array<const float*, kKeys> row;
  Rows(const float* first, ptrdiff_t stride, int count) {
    for (int i = 0; i < count; ++i) row[static_cast<size_t>(i)] = first + i * stride;
  }
};

CHOIR_INLINE void clear_unseen(const Block& b, int i, float* row) {
  std::fill_n(row, b.begin(i), 0.0f);
  std::fill_n(row + b.end(i), b.keys - b.end(i), 0.0f);
}

// Softmax with a running maximum (arXiv 1805.02867): when a block raises the maximum, what is summed so far shrinks by
// e^(old - new). Turns the scores into weights of the block's keys. A sink is what the sums begin with.
struct Running {
  float peak[kQueries], total[kQueries];
};

CHOIR_INLINE void weigh_body(const Block& b, Scores s, float scale, Running& running, float* out, ptrdiff_t stride,
                             int width) {
  for (int i = 0; i < b.queries; ++i) {
    float* row = s.row(i);
    const int begin = b.begin(i), end = b.end(i);
    Vec peaks = broadcast(-kInfinity);
    for (int j = begin; j < end; j += kLanes) peaks = max(load(row + j, end - j, -kInfinity) * scale, peaks);
    const float raised = std::max(running.peak[i], largest(peaks));
    if (begin < end) {
      const float shrink = exp(broadcast(running.peak[i] - raised))[0];
      Vec sums{};
      for (int j = begin; j < end; j += kLanes) {
        const Vec e = exp(load(row + j, end - j, -kInfinity) * scale - raised);
        sums += e;
        store(row + j, e, end - j);
      }
      running.total[i] = running.total[i] * shrink + sum(sums);
      running.peak[i] = raised;
      for (int c = 0; c < width; c += kLanes)
        store(out + i * stride + c, load(out + i * stride + c, width - c) * shrink, width - c);
    }
    clear_unseen(b, i, row);
  }
}

struct Weigh {
  const Block& block;
  Scores scores;
  float scale;
  Running& running;
  float* out;
  ptrdiff_t stride;
  int width;
};

// p = exp(scale s - log_sum) and ds = p (dp - delta) scale, both in place.
struct Differentiate {
  const Block& block;
  Scores p, ds;
  float scale;
  const float *log_sum, *delta;  // of each query of the block
};

CHOIR_INLINE void differentiate_body(const Differentiate& d) {
  for (int i = 0; i < d.block.queries; ++i) {
    float *p = d.p.row(i), *ds = d.ds.row(i);
    const int begin = d.block.begin(i), end = d.block.end(i);
    for (int j = begin; j < end; j += kLanes) {
      const Vec share = exp(load(p + j, end - j) * d.scale - d.log_sum[i]);
      store(p + j, share, end - j);
      store(ds + j, share * (load(ds + j, end - j) - d.delta[i]) * d.scale, end - j);
    }
    clear_unseen(d.block, i, p);
    clear_unseen(d.block, i, ds);
  }
}

void weigh_plain(const Weigh& w) { weigh_body(w.block, w.scores, w.scale, w.running, w.out, w.stride, w.width); }
CHOIR_AVX2 void weigh_avx2(const Weigh& w) {
  weigh_body(w.block, w.scores, w.scale, w.running, w.out, w.stride, w.width);
}
CHOIR_AVX512 void weigh_avx512(const Weigh& w) {
  weigh_body(w.block, w.scores, w.scale, w.running, w.out, w.stride, w.width);
}
constexpr Versions<void(const Weigh&)> weigh{weigh_plain, weigh_avx2, weigh_avx512};

void differentiate_plain(const Differentiate& d) { differentiate_body(d); }
CHOIR_AVX2 void differentiate_avx2(const Differentiate& d) { differentiate_body(d); }
CHOIR_AVX512 void differentiate_avx512(const Differentiate& d) { differentiate_body(d); }
constexpr Versions<void(const Differentiate&)> differentiate{differentiate_plain, differentiate_avx2,
                                                             differentiate_avx512};

// One head of one sequence.
struct Head {
  const AttentionInput& in;
  const Sequence& s;
  int head;

  int width() const { return in.shape.head_width; }
  int values() const { return in.shape.values(); }
  int kv_head() const { return head / (in.shape.heads / in.shape.kv_heads); }
  float sink() const { return in.sinks.empty() ? -kInfinity : in.sinks[static_cast<size_t>(head)]; }
  const float* q(int row) const { return in.q[s.row + row] + head * width(); }
  const float* k(int row) const { return in.k[s.kv_row + row] + kv_head() * width(); }
  const float* v(int row) const { return in.v[s.kv_row + row] + kv_head() * values(); }

  // The blocks of keys that queries [q0, q0 + queries) see.
  template <class Body>
  void each_block(int q0, const Body& body) const {
    const int queries = std::min(kQueries, s.count - q0), end = q0 + queries, window = in.shape.window;
    const int first = window > 0 ? std::max(0, q0 + 1 - window) / kKeys * kKeys : 0;
    for (int k0 = first; k0 < end; k0 += kKeys) body(Block{q0, queries, k0, std::min(kKeys, end - k0), window});
  }
};

// scores = a b^T for rows of a (queries) and rows of b (keys).
void scores_of(const Block& b, const Rows& a, Matrix<const float> keys, int width, Scores s) {
  kPanel(PanelBlock{.a_rows = a.row.data(),
                    .w = keys.data,
                    .w_stride = keys.stride,
                    .y = s.at,
                    .y_stride = kKeys,
                    .rows = b.queries,
                    .cols = b.keys,
                    .depth = width});
}

// y += weights times rows of b, for each query.
void add_keys(const Block& b, Scores weights, const Rows& rows, Matrix<float> y) {
  const Rows a(weights.at, kKeys, b.queries);
  kPanel(PanelBlock{.a_rows = a.row.data(),
                    .b_rows = rows.row.data(),
                    .y = y.data,
                    .y_stride = y.stride,
                    .rows = b.queries,
                    .cols = y.cols,
                    .depth = b.keys,
                    .add = true});
}

// y += weights^T times rows of b, for each key.
void add_queries(const Block& b, Scores weights, const Rows& rows, Matrix<float> y) {
  for (int j = 0; j < b.keys; j += kPanelRows)
    kPanel(PanelBlock{.a = weights.at + j,
                      .a_step = kKeys,
                      .b_rows = rows.row.data(),
                      .y = y[j],
                      .y_stride = y.stride,
                      .rows = std::min(kPanelRows, b.keys - j),
                      .cols = y.cols,
                      .depth = b.queries,
                      .add = true});
}

void forward_block(const Head& h, int q0, Matrix<float> out, Matrix<float> log_sum) {
  alignas(64) float numbers[kQueries * kKeys];
  const Scores s{numbers};
  Running running;
  const int queries = std::min(kQueries, h.s.count - q0), width = h.width(), values = h.values();
  const Matrix<float> y(out[h.s.row + q0] + h.head * values, queries, values, out.stride);
  const float scale = h.in.shape.factor(), sink = h.sink();
  for (int i = 0; i < queries; ++i) {
    running.peak[i] = sink;
    running.total[i] = sink > -kInfinity ? 1 : 0;
    std::ranges::fill(y.row(i), 0.0f);
  }
  const Rows q(h.q(q0), h.in.q.stride, queries);
  h.each_block(q0, [&](const Block& b) {
    scores_of(b, q, {h.k(b.k0), b.keys, width, h.in.k.stride}, width, s);
    weigh(Weigh{b, s, scale, running, y.data, y.stride, values});
    add_keys(b, s, Rows(h.v(b.k0), h.in.v.stride, b.keys), y);
  });
  for (int i = 0; i < queries; ++i) {
    const float share = 1 / running.total[i];
    for (float& value : y.row(i)) value *= share;
    log_sum[h.s.row + q0 + i][h.head] = running.peak[i] + std::log(running.total[i]);
  }
}

void clear_rows(Matrix<float> m) {
  for (int i = 0; i < m.rows; ++i) std::ranges::fill(m.row(i), 0.0f);
}

struct Backward {
  Matrix<const float> dout;
  const AttentionSaved& saved;
  const AttentionGradient& to;
};

// With s_j = scale q.k_j, p = softmax(s) and out = sum_j p_j v_j:
//   dv_j += p_j dout,   ds_j = p_j (dout.v_j - dout.out),   dq += scale sum_j ds_j k_j,   dk_j += scale ds_j q.
// A sink has a share of p and no value: it changes nothing here.
void backward_block(const Head& h, int q0, const Backward& back) {
  alignas(64) float p_numbers[kQueries * kKeys], ds_numbers[kQueries * kKeys];
  const Scores p{p_numbers}, ds{ds_numbers};
  float log_sum[kQueries], delta[kQueries];
  const int queries = std::min(kQueries, h.s.count - q0), row = h.s.row + q0;
  const int width = h.width(), values = h.values(), column = h.head * values;
  for (int i = 0; i < queries; ++i) {
    log_sum[i] = back.saved.log_sum[row + i][h.head];
    const float *d = back.dout[row + i] + column, *out = back.saved.out[row + i] + column;
    delta[i] = 0;
    for (int c = 0; c < values; ++c) delta[i] += d[c] * out[c];
  }
  const Rows q(h.q(q0), h.in.q.stride, queries), dout(back.dout[row] + column, back.dout.stride, queries);
  const Matrix<float> dq(back.to.dq[row] + h.head * width, queries, width, back.to.dq.stride);
  const auto keys_of = [&](const Matrix<float>& all, const Block& b, int cols) {
    return Matrix<float>(all[h.s.kv_row + b.k0] + h.kv_head() * cols, b.keys, cols, all.stride);
  };
  clear_rows(dq);
  h.each_block(q0, [&](const Block& b) {
    scores_of(b, q, {h.k(b.k0), b.keys, width, h.in.k.stride}, width, p);
    scores_of(b, dout, {h.v(b.k0), b.keys, values, h.in.v.stride}, values, ds);
    differentiate(Differentiate{b, p, ds, h.in.shape.factor(), log_sum, delta});
    add_queries(b, p, dout, keys_of(back.to.dv, b, values));
    add_queries(b, ds, q, keys_of(back.to.dk, b, width));
    add_keys(b, ds, Rows(h.k(b.k0), h.in.k.stride, b.keys), dq);
  });
}

// out is the keys' part of the softmax, so dsink = - sum over queries of p_sink (dout.out).
void sink_backward(const AttentionInput& in, const Backward& back, int head) {
  const int values = in.shape.values();
  const auto h = static_cast<size_t>(head);
  double total = 0;
  for (const Sequence& s : in.sequences)
    for (int row = s.row; row < s.row + s.count; ++row) {
      const float *d = back.dout[row] + head * values, *out = back.saved.out[row] + head * values;
      float dot = 0;
      for (int c = 0; c < values; ++c) dot += d[c] * out[c];
      total += static_cast<double>(std::exp(in.sinks[h] - back.saved.log_sum[row][head]) * dot);
    }
  back.to.dsinks[h] -= static_cast<float>(total);
}

void check_whole(const AttentionInput& in) {
  CHOIR_CHECK(in.blocks == 0 && !in.by_heads, "keys in blocks, or heads apart");
  for (const Sequence& s : in.sequences) CHOIR_CHECK(s.first == 0, "position " + std::to_string(s.first));
}

}  // namespace

void attention_forward_packed(const AttentionInput& in, Matrix<float> out, Matrix<float> log_sum, Threads& threads) {
  check_attention(in, out, log_sum);
  check_whole(in);
  const int heads = in.shape.heads;
  threads.for_each(static_cast<int>(in.sequences.size()) * heads, [&](int piece) {
    const Head h{in, in.sequences[static_cast<size_t>(piece / heads)], piece % heads};
    for (int q0 = 0; q0 < h.s.count; q0 += kQueries) forward_block(h, q0, out, log_sum);
  });
}

// A piece is one key-value head of one sequence: its dk and dv are added to by one thread, in the order of the rows.
void attention_backward(Matrix<const float> dout, const AttentionInput& in, const AttentionSaved& saved,
                        const AttentionGradient& gradient, Threads& threads) {
  check_attention(in, dout, saved.log_sum);
  check_attention(in, saved.out, saved.log_sum);
  check_whole(in);
  CHOIR_CHECK(gradient.dsinks.size() == in.sinks.size(), std::to_string(gradient.dsinks.size()) + " sinks");
  const Backward back{dout, saved, gradient};
  const int heads = in.shape.kv_heads, group = in.shape.heads / heads;
  threads.for_each(static_cast<int>(in.sequences.size()) * heads, [&](int piece) {
    const Sequence& s = in.sequences[static_cast<size_t>(piece / heads)];
    const int kv_head = piece % heads, width = in.shape.head_width, values = in.shape.values();
    clear_rows({gradient.dk[s.kv_row] + kv_head * width, s.count, width, gradient.dk.stride});
    clear_rows({gradient.dv[s.kv_row] + kv_head * values, s.count, values, gradient.dv.stride});
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
      for (int q0 = 0; q0 < s.count; q0 += kQueries) backward_block({in, s, head}, q0, back);
  });
  if (!in.sinks.empty()) threads.for_each(in.shape.heads, [&](int head) { sink_backward(in, back, head); });
}

}  // namespace choir::kernels
