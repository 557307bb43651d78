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
  const auto kv = static_cast<size_t>(rows * shape.kv_heads * shape.head_width);
  return {shape, reference::random(q, size, 1), reference::random(kv, size, 2), reference::random(kv, size, 3)};
}

struct Result {
  std::vector<float> out, log_sum, dq, dk, dv;
  bool operator==(const Result&) const = default;
};

// The rows of the problem as sequences of these lengths, one after the other.
Result run(const Reference& p, const std::vector<int>& lengths, int threads, bool packed = false) {
  Threads pool(threads);
  const std::vector<float> q = reference::narrow(p.q), k = reference::narrow(p.k), v = reference::narrow(p.v);
  const std::vector<float> dout = reference::narrow(reference::random(q.size(), 1, 4));
  const int rows = static_cast<int>(p.rows()), wide = static_cast<int>(p.q_cols()),
            cols = static_cast<int>(p.kv_cols());
  std::vector<Sequence> sequences;
  int row = 0;
  for (const int length : lengths) {
    sequences.push_back({row, length, 0, row});
    row += length;
  }
  Result r{std::vector<float>(q.size()), std::vector<float>(static_cast<size_t>(rows * p.shape.heads)),
           std::vector<float>(q.size()), std::vector<float>(k.size()), std::vector<float>(v.size())};
  const AttentionInput in{p.shape, sequences, {q.data(), rows, wide}, {k.data(), rows, cols}, {v.data(), rows, cols}};
  const Matrix<float> out(r.out.data(), rows, wide), log_sum(r.log_sum.data(), rows, p.shape.heads);
  if (packed)
    attention_forward_packed(in, out, log_sum, pool);
  else
    attention_forward(in, out, log_sum, pool);
  attention_backward({dout.data(), rows, wide}, in, {out, log_sum},
                     {{r.dq.data(), rows, wide}, {r.dk.data(), rows, cols}, {r.dv.data(), rows, cols}}, pool);
  return r;
}

TEST_CASE("attention: the double backward agrees with the complex step") {
  using Complex = std::complex<double>;
  for (const int window : {0, 2})
    for (const double size : reference::scales(1e-3, 2)) {
      const Reference p = problem({4, 2, 3, window}, 4, size);
      const std::vector<double> dout = reference::random(p.q.size(), 1, 4);
      std::vector<double> variables = p.q;
      variables.insert(variables.end(), p.k.begin(), p.k.end());
      variables.insert(variables.end(), p.v.begin(), p.v.end());
      const auto q_end = static_cast<ptrdiff_t>(p.q.size()), k_end = q_end + static_cast<ptrdiff_t>(p.k.size());
      const auto numeric = complex_step(variables, [&](const std::vector<Complex>& z) {
        const auto out = reference::attention(reference::AttentionOf<Complex>{p.shape,
                                                                              {z.begin(), z.begin() + q_end},
                                                                              {z.begin() + q_end, z.begin() + k_end},
                                                                              {z.begin() + k_end, z.end()}});
        Complex loss = 0;
        for (size_t i = 0; i < out.size(); ++i) loss += dout[i] * out[i];
        return loss;
      });
      const auto g = reference::attention_backward(dout, p);
      std::vector<double> all = g.dq;
      all.insert(all.end(), g.dk.begin(), g.dk.end());
      CHECK(reference::error({numeric.begin(), numeric.begin() + k_end}, all) < 1e-12);
      CHECK(reference::error({numeric.begin() + k_end, numeric.end()}, g.dv) < 1e-12);
    }
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
        const auto g = reference::attention_backward(reference::random(p.q.size(), 1, 4), p);
        for (const bool packed : {false, true}) {
          CAPTURE(packed);
          const Result r = run(p, {rows}, 2, packed);
          CHECK(reference::error(reference::attention(p), r.out) < 1e-5);
          CHECK(reference::error(g.dq, r.dq) < 1e-5);
          CHECK(reference::error(g.dk, r.dk) < 1e-5);
          CHECK(reference::error(g.dv, r.dv) < 1e-5);
        }
      }
  });
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
  shorter.k.resize(130 * p.kv_cols());
  shorter.v.resize(130 * p.kv_cols());
  const Result whole = run(p, {250}, 1, true), start = run(shorter, {130}, 1, true);
  CHECK(std::equal(start.out.begin(), start.out.end(), whole.out.begin()));
}

TEST_CASE("attention: sequences do not see each other, and threads do not change a bit") {
  const Reference p = problem({4, 2, 22, 0}, 90, 1);
  const Result one = run(p, {33, 1, 56}, 1);
  CHECK(run(p, {33, 1, 56}, 2) == one);
  CHECK(run(p, {33, 1, 56}, 3) == one);
  CHECK(run(p, {33, 1, 56}, 1, true) == run(p, {33, 1, 56}, 3, true));
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
        const Reference p = problem({4, 2, width, window}, 150, 1);
        const Result whole = run(p, {150}, 1);
        const std::vector<float> q = reference::narrow(p.q), k = reference::narrow(p.k), v = reference::narrow(p.v);
        Threads pool(1);
        for (int t = 0; t < 150; ++t) {
          const Sequence step{0, 1, t, 0};
          const int wide = 4 * width, cols = 2 * width;
          std::vector<float> out(static_cast<size_t>(wide)), log_sum(4);
          const AttentionInput in{
              p.shape, {&step, 1}, {q.data() + t * wide, 1, wide}, {k.data(), t + 1, cols}, {v.data(), t + 1, cols}};
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
