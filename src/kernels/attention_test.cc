#include "kernels/attention.h"

#include <doctest/doctest.h>

#include "kernels/attention_packed.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/compare.h"
#include "tests/gradients/complex_step.h"

namespace choir::kernels {
namespace {

using Reference = reference::AttentionOf<double>;

Reference problem(const AttentionShape& shape, int rows, double size) {
  const auto q = static_cast<size_t>(rows * shape.heads * shape.head_width);
  const auto k = static_cast<size_t>(rows * shape.kv_heads * shape.head_width);
  const auto v = static_cast<size_t>(rows * shape.kv_heads * shape.values());
  return {shape, reference::random(q, size, 1), reference::random(k, size, 2), reference::random(v, size, 3)};
}

Reference with_sinks(Reference p, double size) {
  p.sinks = reference::random(p.heads(), size, 5);
  return p;
}

std::vector<double> dout_of(const Reference& p) { return reference::random(p.rows() * p.out_cols(), 1, 4); }

struct Result {
  std::vector<float> out, log_sum, dq, dk, dv, dsinks;
  bool operator==(const Result&) const = default;
};

// The rows of the problem as sequences of these lengths, one after the other.
Result run(const Reference& p, const std::vector<int>& lengths, int threads, bool packed = false) {
  Threads pool(threads);
  const std::vector<float> q = reference::narrow(p.q), k = reference::narrow(p.k), v = reference::narrow(p.v),
                           sinks = reference::narrow(p.sinks), dout = reference::narrow(dout_of(p));
  const int rows = static_cast<int>(p.rows()), wide = static_cast<int>(p.q_cols()), cols = static_cast<int>(p.k_cols()),
            out_cols = static_cast<int>(p.out_cols()), v_cols = static_cast<int>(p.v_cols());
  std::vector<Sequence> sequences;
  int row = 0;
  for (const int length : lengths) {
    sequences.push_back({row, length, 0, row});
    row += length;
  }
  Result r{std::vector<float>(dout.size()), std::vector<float>(static_cast<size_t>(rows * p.shape.heads)),
           std::vector<float>(q.size(), 7), std::vector<float>(k.size(), 7),
           std::vector<float>(v.size(), 7), std::vector<float>(sinks.size())};
  const AttentionInput in{p.shape, sequences, {q.data(), rows, wide}, {k.data(), rows, cols}, {v.data(), rows, v_cols},
                          sinks};
  const Matrix<float> out(r.out.data(), rows, out_cols), log_sum(r.log_sum.data(), rows, p.shape.heads);
  if (packed)
    attention_forward_packed(in, out, log_sum, pool);
  else
    attention_forward(in, out, log_sum, pool);
  attention_backward({dout.data(), rows, out_cols}, in, {out, log_sum},
                     {{r.dq.data(), rows, wide}, {r.dk.data(), rows, cols}, {r.dv.data(), rows, v_cols}, r.dsinks},
                     pool);
  return r;
}

void check_double_backward(const Reference& p) {
  using Complex = std::complex<double>;
  const std::vector<double> dout = dout_of(p);
  std::vector<double> variables = p.q;
  for (const auto* part : {&p.k, &p.v, &p.sinks}) variables.insert(variables.end(), part->begin(), part->end());
  const auto q_end = static_cast<ptrdiff_t>(p.q.size()), k_end = q_end + static_cast<ptrdiff_t>(p.k.size()),
             v_end = k_end + static_cast<ptrdiff_t>(p.v.size());
  const auto numeric = complex_step(variables, [&](const std::vector<Complex>& z) {
    const auto out = reference::attention(reference::AttentionOf<Complex>{p.shape,
                                                                          {z.begin(), z.begin() + q_end},
                                                                          {z.begin() + q_end, z.begin() + k_end},
                                                                          {z.begin() + k_end, z.begin() + v_end},
                                                                          {z.begin() + v_end, z.end()}});
    Complex loss = 0;
    for (size_t i = 0; i < out.size(); ++i) loss += dout[i] * out[i];
    return loss;
  });
  const auto g = reference::attention_backward(dout, p);
  std::vector<double> all = g.dq;
  all.insert(all.end(), g.dk.begin(), g.dk.end());
  CHECK(reference::error({numeric.begin(), numeric.begin() + k_end}, all) < 1e-12);
  CHECK(reference::error({numeric.begin() + k_end, numeric.begin() + v_end}, g.dv) < 1e-12);
  CHECK(reference::error({numeric.begin() + v_end, numeric.end()}, g.dsinks) < 1e-12);
}

TEST_CASE("attention: the double backward agrees with the complex step") {
  for (const AttentionShape shape :
       {AttentionShape{4, 2, 3, 0},
        {4, 2, 3, 2},
        {.heads = 2, .kv_heads = 1, .head_width = 3, .value_width = 2},
        {.heads = 2, .kv_heads = 1, .head_width = 2, .window = 2, .value_width = 3, .scale = 0.9f}})
    for (const double size : reference::scales(1e-3, 2)) {
      CAPTURE(size);
      check_double_backward(problem(shape, 4, size));
      check_double_backward(with_sinks(problem(shape, 4, size), 1));
    }
}

void check_against_reference(const Reference& p, bool packed) {
  CAPTURE(packed);
  const auto g = reference::attention_backward(dout_of(p), p);
  const Result r = run(p, {static_cast<int>(p.rows())}, 2, packed);
  CHECK(reference::error(reference::attention(p), r.out) < 1e-5);
  CHECK(reference::error(g.dq, r.dq) < 1e-5);
  CHECK(reference::error(g.dk, r.dk) < 1e-5);
  CHECK(reference::error(g.dv, r.dv) < 1e-5);
  CHECK(reference::error(g.dsinks, r.dsinks) < 1e-5);
}

// The scales end at 2: there the scores reach tens, and a softmax turns the float steps of larger ones into errors.
TEST_CASE("attention: every version agrees with the reference at ten scales") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const AttentionShape shape : {AttentionShape{4, 2, 10, 0}, {3, 1, 22, 7}, {2, 2, 64, 70}, {2, 1, 80, 0}})
      for (const double size : reference::scales(1e-3, 2)) {
        CAPTURE(shape.head_width);
        CAPTURE(size);
        const int rows = shape.head_width == 64 ? 140 : 20;
        const Reference p = problem(shape, rows, size);
        if (rows == 140 && size != 2 && size > 1e-3) continue;  // the long one at both ends of the range
        for (const bool packed : {false, true}) check_against_reference(p, packed);
      }
  });
}

// Values narrower and wider than keys, one key-value head for many heads, and scores of another size.
TEST_CASE("attention: every version agrees with the reference with values of another width, a scale and sinks") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const AttentionShape shape :
         {AttentionShape{.heads = 4, .kv_heads = 2, .head_width = 10, .value_width = 6},
          {.heads = 3, .kv_heads = 1, .head_width = 6, .window = 7, .value_width = 22, .scale = 0.3f},
          {.heads = 19, .kv_heads = 1, .head_width = 24, .value_width = 16},
          {.heads = 2, .kv_heads = 2, .head_width = 192, .value_width = 128, .scale = 0.1f}})
      for (const double size : {1e-3, 0.3, 1.0})
        for (const bool packed : {false, true}) {
          CAPTURE(shape.heads);
          CAPTURE(size);
          check_against_reference(problem(shape, 20, size), packed);
          check_against_reference(with_sinks(problem(shape, 20, size), 2), packed);
        }
  });
}

// Some rows see several blocks of keys: a sink that is larger than all scores, or smaller, counts once.
TEST_CASE("attention: sinks far from the scores, over several blocks") {
  for (const double size : {0.1, 10.0, 60.0})
    for (const bool packed : {false, true}) {
      CAPTURE(size);
      check_against_reference(with_sinks(problem({2, 1, 8, 0}, 230, 1), size), packed);
      check_against_reference(with_sinks(problem({2, 1, 8, 130}, 230, 1), size), packed);
    }
}

TEST_CASE("attention: a context of several splits agrees with the reference, with a window and sinks too") {
  for (const int window : {0, 520}) {
    CAPTURE(window);
    check_against_reference(with_sinks(problem({2, 1, 6, window}, 1100, 1), 3), false);
  }
}

TEST_CASE("attention: a sink of minus infinity is none, and values may be columns of the keys") {
  const Reference p = problem({.heads = 4, .kv_heads = 1, .head_width = 24, .value_width = 16}, 40, 1);
  const std::vector<float> q = reference::narrow(p.q), k = reference::narrow(p.k);
  std::vector<float> v;
  for (int row = 0; row < 40; ++row) v.insert(v.end(), k.begin() + row * 24, k.begin() + row * 24 + 16);
  Threads pool(2);
  const Sequence all{0, 40, 0, 0};
  const std::vector<float> none(4, -HUGE_VALF);
  const auto run_with = [&](Matrix<const float> values, std::span<const float> sinks, auto forward) {
    std::vector<float> out(40 * 64), log_sum(40 * 4);
    forward({p.shape, {&all, 1}, {q.data(), 40, 96}, {k.data(), 40, 24}, values, sinks}, {out.data(), 40, 64},
            {log_sum.data(), 40, 4}, pool);
    return std::pair(out, log_sum);
  };
  for (const auto forward : {attention_forward, attention_forward_packed}) {
    const auto want = run_with({v.data(), 40, 16}, {}, forward);
    CHECK(run_with({v.data(), 40, 16}, none, forward) == want);
    CHECK(run_with({k.data(), 40, 16, 24}, {}, forward) == want);
  }
}

TEST_CASE(
    "attention: over several blocks of queries and keys the packed form agrees with the other, with a window too") {
  for (const int window : {0, 30, 150, 199}) {
    CAPTURE(window);
    const Reference p = problem({2, 1, 24, window}, 410, 1);
    const Result rows = run(p, {410}, 1), blocks = run(p, {410}, 1, true);
    for (const auto& [a, b] : {std::pair{&rows.out, &blocks.out},
                               {&rows.log_sum, &blocks.log_sum},
                               {&rows.dq, &blocks.dq},
                               {&rows.dk, &blocks.dk},
                               {&rows.dv, &blocks.dv}})
      CHECK(reference::error({a->begin(), a->end()}, *b) < 1e-5);
  }
}

TEST_CASE("attention: the packed form gives a row the same bits whatever follows it in its sequence") {
  const Reference p = problem({2, 1, 24, 0}, 250, 1);
  Reference shorter = p;
  shorter.q.resize(130 * p.q_cols());
  shorter.k.resize(130 * p.k_cols());
  shorter.v.resize(130 * p.k_cols());
  const Result whole = run(p, {250}, 1, true), start = run(shorter, {130}, 1, true);
  CHECK(std::equal(start.out.begin(), start.out.end(), whole.out.begin()));
}

TEST_CASE("attention: sequences do not see each other, and threads do not change a bit") {
  const Reference p = problem({4, 2, 22, 0}, 90, 1);
  const Result one = run(p, {33, 1, 56}, 1);
  CHECK(run(p, {33, 1, 56}, 2) == one);
  CHECK(run(p, {33, 1, 56}, 3) == one);
  CHECK(run(p, {33, 1, 56}, 1, true) == run(p, {33, 1, 56}, 3, true));
  const Reference sinking = with_sinks(p, 1);
  CHECK(run(sinking, {33, 1, 56}, 1) == run(sinking, {33, 1, 56}, 3));
  Reference last = p;
  last.q.erase(last.q.begin(), last.q.begin() + 34 * 88);
  last.k.erase(last.k.begin(), last.k.begin() + 34 * 44);
  last.v.erase(last.v.begin(), last.v.begin() + 34 * 44);
  const Result alone = run(last, {56}, 1);
  CHECK(std::equal(alone.out.begin(), alone.out.end(), one.out.begin() + 34 * 88));
}

TEST_CASE("attention: a row decoded alone has the bits of the same row in a prefill") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const int window : {0, 50})
      for (const int width : {10, 64}) {
        const Reference p = with_sinks(problem({4, 2, width, window}, 150, 1), 1);
        const Result whole = run(p, {150}, 1);
        const std::vector<float> q = reference::narrow(p.q), k = reference::narrow(p.k), v = reference::narrow(p.v),
                                 sinks = reference::narrow(p.sinks);
        Threads pool(1);
        for (int t = 0; t < 150; ++t) {
          const Sequence step{0, 1, t, 0};
          const int wide = 4 * width, cols = 2 * width;
          std::vector<float> out(static_cast<size_t>(wide)), log_sum(4);
          const AttentionInput in{
              p.shape, {&step, 1}, {q.data() + t * wide, 1, wide}, {k.data(), t + 1, cols}, {v.data(), t + 1, cols},
              sinks};
          attention_forward(in, {out.data(), 1, wide}, {log_sum.data(), 1, 4}, pool);
          CHECK(std::equal(out.begin(), out.end(), whole.out.begin() + t * wide));
          CHECK(std::equal(log_sum.begin(), log_sum.end(), whole.log_sum.begin() + t * 4));
        }
      }
  });
}

TEST_CASE("attention: grouped heads are the same as repeated keys and values") {
  const int width = 16, rows = 30;
  const Reference grouped = problem({4, 2, width, 0}, rows, 1);
  Reference repeated = problem({4, 4, width, 0}, rows, 1);
  for (size_t i = 0; i < repeated.k.size(); ++i) {
    const size_t row = i / 64, head = i % 64 / 16, column = i % 16;
    repeated.k[i] = grouped.k[row * 32 + head / 2 * 16 + column];
    repeated.v[i] = grouped.v[row * 32 + head / 2 * 16 + column];
  }
  const Result a = run(grouped, {rows}, 1), b = run(repeated, {rows}, 1);
  CHECK(a.out == b.out);
  CHECK(a.dq == b.dq);
}

TEST_CASE("attention: a window as long as the sequence hides nothing") {
  const Result unlimited = run(problem({2, 1, 10, 0}, 100, 1), {100}, 1);
  CHECK(run(problem({2, 1, 10, 100}, 100, 1), {100}, 1) == unlimited);
  CHECK(run(problem({2, 1, 10, 99}, 100, 1), {100}, 1).out != unlimited.out);
}

}  // namespace
}  // namespace choir::kernels
