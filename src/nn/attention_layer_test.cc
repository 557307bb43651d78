// Properties of the layer; its numbers and gradients are compared with the reference in tests/attention_layer_test.cc.
#include "nn/attention_layer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "kernels/rope.h"
#include "nn/residual.h"

namespace choir::nn {
namespace {

constexpr int kWidth = 12, kPositions = 80;
constexpr kernels::AttentionShape kShape{.heads = 4, .kv_heads = 2, .head_width = 6, .window = 5};
constexpr int kQ = 24, kKv = 12;

// With values of this width and all that a family may have.
constexpr int kValues = 3;

Buffer<float> random(int size, uint64_t seed) {
  base::Rng rng(seed);
  Buffer<float> values(static_cast<size_t>(size));
  for (float& v : values.span()) v = 0.5f * rng.normal();
  return values;
}

struct Layer {
  Buffer<float> norm = random(kWidth, 1), q = random(kQ * kWidth, 2), k = random(kKv * kWidth, 3),
                v = random(kKv * kWidth, 4), o = random(kWidth * kQ, 5), more = random(7 * kQ, 6),
                rope{static_cast<size_t>(kPositions * kShape.head_width)};
  kernels::AttentionShape shape = kShape;
  AttentionTensors<Weight> weights;
  float clip = 0, residual = 1;
  Threads threads{2};

  explicit Layer(bool full = false) {
    if (full) shape.value_width = kValues;
    const int kv = shape.kv_heads * shape.values(), mixed = shape.heads * shape.values();
    const auto weight = [](const float* at, int rows, int cols) { return Weight(Matrix<const float>(at, rows, cols)); };
    weights = {weight(norm.data(), 1, kWidth), weight(q.data(), kQ, kWidth), weight(k.data(), kKv, kWidth),
               weight(v.data(), kv, kWidth), weight(o.data(), kWidth, mixed)};
    kernels::rope_table(kernels::rope_frequencies({.theta = 100}, kShape.head_width, kPositions),
                        rope.matrix(kPositions, kShape.head_width));
    if (!full) return;
    const auto vector = [&](int i, int cols) { return weight(more.data() + i * kQ, 1, cols); };
    weights.norm_bias = vector(0, kWidth);
    weights.q_bias = vector(1, kQ);
    weights.v_bias = vector(2, kv);
    weights.o_bias = vector(3, kWidth);
    weights.q_norm = vector(4, kShape.head_width);
    weights.k_norm = vector(5, kKv);
    weights.sinks = vector(6, kShape.heads);
    clip = 0.4f;
    residual = 0.3f;
  }

  // Without a cache, or behind `sequence.first` tokens of one.
  std::vector<float> forward(Matrix<const float> x, const Sequence& sequence, const kernels::KeyBlocks* cache) {
    std::vector<int> positions(static_cast<size_t>(x.rows));
    std::iota(positions.begin(), positions.end(), sequence.first);
    const AttentionContext context{.shape = shape,
                                   .epsilon = 1e-5f,
                                   .rope = rope.matrix(kPositions, kShape.head_width),
                                   .positions = positions,
                                   .sequences = {&sequence, 1},
                                   .clip = clip,
                                   .residual = residual};
    std::vector<float> y(static_cast<size_t>(x.rows * kWidth));
    AttentionActivations activations;
    AttentionStep step{x, {y.data(), x.rows, kWidth}, {}};
    if (cache) step.cache = *cache;
    attention_layer_forward(context, weights, step, activations, threads);
    return y;
  }
};

// Of some sequences, with a block for each head.
struct Cache {
  int count;
  Buffer<float> k, v;

  Cache(int n, const kernels::AttentionShape& shape)
      : count(n * shape.kv_heads),
        k(static_cast<size_t>(n * shape.kv_heads * shape.key_block())),
        v(static_cast<size_t>(n * shape.kv_heads * shape.value_block())) {}
  kernels::KeyBlocks blocks() const {
    const auto columns = [this](const Buffer<float>& b) { return static_cast<int>(b.size()) / count; };
    return {k.matrix(count, columns(k)), v.matrix(count, columns(v)), 1};
  }
};

void check_pieces(Layer& layer) {
  constexpr int tokens = 11, cache_row = kernels::kKeyBlock;
  const Buffer<float> x = random(tokens * kWidth, 9);
  const auto input = x.matrix(tokens, kWidth);
  const auto whole = layer.forward(input, {0, tokens, 0, 0}, nullptr);
  for (const int piece : {1, 4, tokens}) {
    const Cache room(2, layer.shape);
    const kernels::KeyBlocks cache = room.blocks();
    for (int first = 0; first < tokens; first += piece) {
      const int count = std::min(piece, tokens - first);
      const auto y = layer.forward(input.slice_rows(first, count), {0, count, first, cache_row}, &cache);
      CHECK(std::equal(y.begin(), y.end(), whole.begin() + first * kWidth));
    }
    CHECK(std::ranges::all_of(cache.k.row(0), [](float f) { return f == 0; }));
    CHECK(std::ranges::all_of(cache.v.row(0), [](float f) { return f == 0; }));
  }
}

TEST_CASE("attention layer: tokens in pieces behind a cache give the bits of the whole sequence") {
  Layer plain, full(true);
  check_pieces(plain);
  check_pieces(full);
}

TEST_CASE("attention layer: a norm that fits neither a head nor all of them is refused") {
  Layer layer(true);
  layer.weights.q_norm = Matrix<const float>(layer.more.data(), 1, 2 * kShape.head_width);
  const Buffer<float> x = random(kWidth, 9);
  CHECK_THROWS_AS(layer.forward(x.matrix(1, kWidth), {0, 1, 0, 0}, nullptr), base::Error);
}

TEST_CASE("attention layer: a cache that is full is refused before anything is written over its end") {
  Layer layer;
  const Buffer<float> x = random(4 * kWidth, 9);
  const Cache room(1, layer.shape);
  const kernels::KeyBlocks cache = room.blocks();
  CHECK_THROWS_AS(layer.forward(x.matrix(4, kWidth), {0, 4, kernels::kKeyBlock - 3, 0}, &cache), base::Error);
  CHECK_THROWS_AS(layer.forward(x.matrix(4, kWidth), {0, 4, 0, 3}, &cache), base::Error);
}

TEST_CASE("attention layer: the backward wants float weights") {
  const std::vector<uint16_t> half(6);
  CHECK_THROWS_AS(tensor::as_matrix({half.data(), tensor::DType::kBF16, 2, 3}), base::Error);
}

TEST_CASE("add: element by element, a share where one is given") {
  Threads threads(2);
  const Buffer<float> x = random(200 * 3, 1), y = random(200 * 3, 2), z = random(200 * 3, 2), was = random(200 * 3, 2);
  add(x.matrix(200, 3), y.matrix(200, 3), threads);
  add(x.matrix(200, 3), z.matrix(200, 3), threads, 0.25f);
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(y[i] == was[i] + x[i]);
    CHECK(z[i] == doctest::Approx(0.25f * was[i] + x[i]));
  }
}

}  // namespace
}  // namespace choir::nn
