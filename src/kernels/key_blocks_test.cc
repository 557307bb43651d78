#include "kernels/key_blocks.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/reference/compare.h"
#include "tensor/buffer.h"

namespace choir::kernels {
namespace {

using tensor::Buffer;

Buffer<float> random(int size, uint64_t seed) {
  base::Rng rng(seed);
  Buffer<float> values(static_cast<size_t>(size));
  for (float& v : values.span()) v = rng.normal();
  return values;
}

// One text: its rows, and its cache behind an empty one.
struct Text {
  AttentionShape shape;
  int length;
  Buffer<float> q, k, v, sinks, key_blocks, value_blocks;

  Text(const AttentionShape& s, int n)
      : shape(s),
        length(n),
        q(random(n * s.heads * s.head_width, 1)),
        k(random(n * s.kv_heads * s.head_width, 2)),
        v(random(n * s.kv_heads * s.values(), 3)),
        sinks(random(s.heads, 4)),
        key_blocks(static_cast<size_t>(2 * blocks() * s.kv_heads * s.key_block())),
        value_blocks(static_cast<size_t>(2 * blocks() * s.kv_heads * s.value_block())) {}

  int blocks() const { return in_blocks(length) / kKeyBlock; }
  int place() const { return in_blocks(length); }
  KeyBlocks cache() const {
    const int rows = 2 * blocks() * shape.kv_heads;
    return {key_blocks.matrix(rows, shape.key_block()), value_blocks.matrix(rows, shape.value_block()), blocks()};
  }
  AttentionInput rows(const Sequence& s) const {
    return {shape,
            {&s, 1},
            q.matrix(length, shape.heads * shape.head_width),
            k.matrix(length, shape.kv_heads * shape.head_width),
            v.matrix(length, shape.kv_heads * shape.values()),
            sinks.span()};
  }
};

struct Result {
  std::vector<float> out, log_sum;
  bool operator==(const Result&) const = default;
};

// In feeds of `piece` tokens, each behind the others in blocks.
Result in_pieces(const Text& text, int piece, int thread_count, bool with_room) {
  const AttentionShape& shape = text.shape;
  const int wide = shape.heads * shape.values();
  Threads threads(thread_count);
  Result result{std::vector<float>(static_cast<size_t>(text.length * wide)),
                std::vector<float>(static_cast<size_t>(text.length * shape.heads))};
  for (int first = 0; first < text.length; first += piece) {
    const Sequence s{first, std::min(piece, text.length - first), first, text.place()};
    AttentionInput in = text.rows(s);
    store_keys(in, text.cache(), threads);
    in.k = text.cache().k;
    in.v = text.cache().v;
    in.blocks = text.blocks();
    std::vector<float> room(with_room ? attention_room(in) : 0);
    in.room = room;
    attention_forward(in, {result.out.data(), text.length, wide}, {result.log_sum.data(), text.length, shape.heads},
                      threads);
  }
  return result;
}

Result in_rows(const Text& text) {
  const AttentionShape& shape = text.shape;
  const int wide = shape.heads * shape.values();
  Threads threads(1);
  Result result{std::vector<float>(static_cast<size_t>(text.length * wide)),
                std::vector<float>(static_cast<size_t>(text.length * shape.heads))};
  attention_forward(text.rows({0, text.length, 0, 0}), {result.out.data(), text.length, wide},
                    {result.log_sum.data(), text.length, shape.heads}, threads);
  return result;
}

TEST_CASE("key blocks: every number stands where attention.h says, and nothing else is touched") {
  const Text text({.heads = 2, .kv_heads = 2, .head_width = 18, .value_width = 70}, 150);
  Threads threads(2);
  for (const auto& [first, count] : {std::pair{0, 37}, {37, 1}, {38, 100}}) {
    const Sequence s{first, count, first, text.place()};
    store_keys(text.rows(s), text.cache(), threads);
  }
  const KeyBlocks cache = text.cache();
  for (int p = 0; p < 150; ++p)
    for (int head = 0; head < 2; ++head) {
      const float *keys = cache.k[(2 + head) * 3 + p / 64], *values = cache.v[(2 + head) * 3 + p / 64];
      for (int c = 0; c < 18; ++c)
        CHECK(keys[c * 64 + p % 64] == (p < 138 ? text.k[static_cast<size_t>(p * 36 + head * 18 + c)] : 0));
      for (int c = 0; c < 70; ++c)
        CHECK((c < 64 ? values[p % 64 * 64 + c] : values[64 * 64 + p % 64 * 16 + c - 64]) ==
              (p < 138 ? text.v[static_cast<size_t>(p * 140 + head * 70 + c)] : 0));
    }
  for (const auto& m : {cache.k, cache.v})
    for (int row = 0; row < 6; ++row) CHECK(std::ranges::all_of(m.row(row), [](float x) { return x == 0; }));
}

TEST_CASE("key blocks: a cache that is full, or a sequence that begins within a block, is refused") {
  const Text text({.heads = 1, .kv_heads = 1, .head_width = 4}, 150);
  Threads threads(1);
  const Sequence full{0, 100, 100, text.place()}, within{0, 10, 0, 3};
  CHECK_THROWS_AS(store_keys(text.rows(full), text.cache(), threads), base::Error);
  CHECK_THROWS_AS(store_keys(text.rows(within), text.cache(), threads), base::Error);
}

TEST_CASE("key blocks: attention over them has the bits of attention over rows, however the text is cut") {
  reference::for_each_isa([](Isa isa) {
    CAPTURE(name_of(isa));
    for (const AttentionShape shape : {AttentionShape{.heads = 4, .kv_heads = 2, .head_width = 10},
                                       {.heads = 7, .kv_heads = 1, .head_width = 64, .window = 70},
                                       {.heads = 2, .kv_heads = 2, .head_width = 192, .value_width = 72}}) {
      CAPTURE(shape.head_width);
      const Text text(shape, 170);
      const Result whole = in_rows(text);
      for (const int piece : {1, 16, 50, 170}) CHECK(in_pieces(text, piece, 2, true) == whole);
    }
  });
}

TEST_CASE("key blocks: of a long context, few rows have the same bits with threads, room and without") {
  for (const int window : {0, 600})
    for (const AttentionShape shape :
         {AttentionShape{.heads = 3, .kv_heads = 1, .head_width = 16, .window = window, .value_width = 20},
          {.heads = 60, .kv_heads = 1, .head_width = 8, .window = window}}) {
      CAPTURE(window);
      CAPTURE(shape.heads);
      const Text text(shape, 1200);
      const Result whole = in_rows(text);
      CHECK(in_pieces(text, 500, 2, true) == whole);
      for (const int threads : {1, 3})
        for (const bool room : {true, false}) CHECK(in_pieces(text, threads + 4, threads, room) == whole);
    }
}

TEST_CASE("key blocks: heads one behind the other in rows are the same as side by side") {
  const Text text({.heads = 5, .kv_heads = 1, .head_width = 24, .value_width = 16}, 90);
  const Result want = in_rows(text);
  Threads threads(2);
  const Buffer<float> q(text.q.size()), log_sum(static_cast<size_t>(90 * 5));
  Buffer<float> out(static_cast<size_t>(90 * 5 * 16));
  for (int t = 0; t < 90; ++t)
    for (int h = 0; h < 5; ++h) std::copy_n(text.q.data() + (t * 5 + h) * 24, 24, q.data() + (h * 90 + t) * 24);
  const Sequence all{0, 90, 0, 0};
  AttentionInput in = text.rows(all);
  in.q = q.matrix(90 * 5, 24);
  in.by_heads = true;
  attention_forward(in, out.matrix(90 * 5, 16), log_sum.matrix(90, 5), threads);
  for (int t = 0; t < 90; ++t)
    for (int h = 0; h < 5; ++h)
      CHECK(std::equal(out.data() + (h * 90 + t) * 16, out.data() + (h * 90 + t + 1) * 16,
                       want.out.data() + (t * 5 + h) * 16));
  CHECK(std::ranges::equal(log_sum.span(), want.log_sum));
}

}  // namespace
}  // namespace choir::kernels
