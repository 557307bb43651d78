#include "kernels/work.h"

#include <doctest/doctest.h>

#include <set>
#include <vector>

namespace choir::kernels {
namespace {

using tensor::DType;

bool operator==(const Work& a, const Work& b) {
  return a.weights == b.weights && a.others == b.others && a.operations == b.operations &&
         a.byte_operations == b.byte_operations;
}

// 3 rows of 32 by a Q8_0 weight of 5 x 32, whose rows are one block of 34 bytes, with a float bias.
TEST_CASE("work: a product counts its weight in the format of its file, and each row once") {
  const float bias[5] = {};
  const Weight w("", DType::kQ8_0, 5, 32), b(bias, DType::kF32, 1, 5);
  CHECK(product_work(3, w, b) == Work{5 * 34 + 20, 4 * 3 * (32 + 5), 2 * 3 * 32 * 5, 0});
  CHECK(product_work(3, w, {}) == Work{5 * 34, 4 * 3 * (32 + 5), 2 * 3 * 32 * 5, 0});
  const Work backward = product_backward_work(3, w, b);
  CHECK(backward.weights == 5 * 34);
  CHECK(backward.others == 4 * (3 * 5 + 2 * 3 * 32 + 2 * 5 * 32 + 2 * 5));
  CHECK(backward.operations == 2 * 2 * 3 * 32 * 5);
}

TEST_CASE("work: experts without rows are not read") {
  const int32_t offset[] = {0, 2, 2, 5};
  const std::vector<Weight> w{{"", DType::kF32, 4, 6}, {"", DType::kF32, 4, 6}, {"", DType::kBF16, 3, 6}};
  const Work work = grouped_work(offset, w, {});
  CHECK(work.weights == 4 * 4 * 6 + 2 * 3 * 6);
  CHECK(work.others == 4 * (2 * (6 + 4) + 3 * (6 + 3)));
  CHECK(work.operations == 2 * (2 * 4 * 6 + 3 * 3 * 6));
  CHECK(grouped_backward_work(offset, w, {}).operations == 2 * work.operations);
}

// Pairs and keys counted one by one.
TEST_CASE("work: attention counts the pairs that see each other, and the keys that are seen") {
  const float k[8] = {}, v[8] = {};
  for (const int window : {0, 1, 3, 100}) {
    CAPTURE(window);
    const AttentionShape shape{.heads = 4, .kv_heads = 2, .head_width = 8, .window = window, .value_width = 6};
    const std::vector<Sequence> sequences{{0, 5, 0, 0}, {5, 1, 9, 20}, {6, 4, 2, 40}};
    const AttentionInput in{shape, sequences, {nullptr, 10, 32}, {k, 60, 16}, {v, 60, 12}};
    int64_t pairs = 0;
    std::set<int> keys;
    for (const Sequence& s : sequences)
      for (int i = 0; i < s.count; ++i)
        for (int j = 0; j <= s.first + i; ++j)
          if (window == 0 || s.first + i - j < window) {
            ++pairs;
            keys.insert(s.kv_row + j);
          }
    const Work work = attention_work(in);
    CHECK(work.operations == 2 * 4 * (8 + 6) * pairs);
    CHECK(work.others == 4 * (10 * 4 * (8 + 6) + static_cast<int64_t>(keys.size()) * 2 * (8 + 6)));
    CHECK(attention_backward_work(in).operations == 2 * 4 * (3 * 8 + 2 * 6) * pairs);
  }
}

TEST_CASE("work: values that lie inside the keys are not read again, and sinks are weights") {
  const float k[16] = {}, sinks[2] = {};
  const std::vector<Sequence> sequences{{0, 1, 3, 0}};
  const AttentionShape shape{.heads = 2, .kv_heads = 1, .head_width = 16, .value_width = 12};
  const AttentionInput in{shape, sequences, {nullptr, 1, 32}, {k, 4, 16}, {k, 4, 12, 16}, sinks};
  CHECK(attention_work(in).others == 4 * (2 * (16 + 12) + 4 * 16));
  CHECK(attention_work(in).weights == 8);
}

}  // namespace
}  // namespace choir::kernels
