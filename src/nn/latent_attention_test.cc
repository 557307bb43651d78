// Properties of the layer; its numbers and gradients are compared with a reference in tests/latent_attention_test.cc.
#include "nn/latent_attention.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/rng.h"

namespace choir::nn {
namespace {

constexpr int kWidth = 12, kPositions = 200;
constexpr LatentShape kShape{.heads = 3, .nope = 6, .rotary = 4, .value = 5, .q_rank = 7, .kv_rank = 18};
constexpr int kCached = 22;

Buffer<float> random(int size, uint64_t seed) {
  base::Rng rng(seed);
  Buffer<float> values(static_cast<size_t>(size));
  for (float& v : values.span()) v = 0.5f * rng.normal();
  return values;
}

// The next `count` tokens of a text, behind `first` others.
struct Piece {
  const Buffer<float>* text;
  int first, count, kv_row;
};

struct Layer {
  std::vector<Buffer<float>> numbers;
  Buffer<float> rope{static_cast<size_t>(kPositions * kShape.rotary)};
  LatentTensors<Weight> weights;
  LatentForm form = LatentForm::kAbsorbed;
  LatentActivations activations;
  Threads threads{2};

  Layer() {
    const LatentShape& s = kShape;
    const auto weight = [&](int rows, int cols) {
      numbers.push_back(random(rows * cols, 1 + numbers.size()));
      return Weight(Matrix<const float>(numbers.back().data(), rows, cols));
    };
    weights.norm = weight(1, kWidth);
    weights.q_a = weight(s.q_rank, kWidth);
    weights.q_a_norm = weight(1, s.q_rank);
    weights.q_b = weight(s.heads * s.key(), s.q_rank);
    weights.kv_a = weight(s.cached(), kWidth);
    weights.kv_a_norm = weight(1, s.kv_rank);
    weights.kv_b = weight(s.heads * (s.nope + s.value), s.kv_rank);
    weights.o = weight(kWidth, s.heads * s.value);
    kernels::RopeSpec spec;
    spec.theta = 100;
    kernels::rope_table(kernels::rope_frequencies(spec, s.rotary, kPositions), rope.matrix(kPositions, s.rotary));
  }

  // One call; the answers of all pieces after one another.
  std::vector<float> forward(const std::vector<Piece>& pieces, std::optional<Matrix<float>> cache) {
    std::vector<float> x;
    std::vector<int> positions;
    std::vector<Sequence> sequences;
    for (const Piece& p : pieces) {
      const int row = static_cast<int>(positions.size());
      sequences.push_back({row, p.count, p.first, cache ? p.kv_row : row});
      for (int i = 0; i < p.count; ++i) positions.push_back(p.first + i);
      x.insert(x.end(), p.text->data() + p.first * kWidth, p.text->data() + (p.first + p.count) * kWidth);
    }
    const int n = static_cast<int>(positions.size());
    const LatentContext context{.shape = kShape,
                                .epsilon = 1e-5f,
                                .rope = rope.matrix(kPositions, kShape.rotary),
                                .positions = positions,
                                .sequences = sequences,
                                .form = form};
    std::vector<float> y(x.size());
    latent_attention_forward(context, weights, {{x.data(), n, kWidth}, {y.data(), n, kWidth}, cache}, activations,
                             threads);
    return y;
  }
};

TEST_CASE("latent attention: tokens in pieces behind a cache give the bits of the whole sequence") {
  Layer layer;
  constexpr int tokens = 150, cache_row = 3;  // more tokens than are absorbed at a time
  const Buffer<float> x = random(tokens * kWidth, 99);
  const auto whole = layer.forward({{&x, 0, tokens, 0}}, {});
  for (const int piece : {1, 7, 100, tokens}) {
    CAPTURE(piece);
    const Buffer<float> latent(static_cast<size_t>((tokens + 5) * kCached));
    const Matrix<float> cache = latent.matrix(tokens + 5, kCached);
    for (int first = 0; first < tokens; first += piece) {
      const int count = std::min(piece, tokens - first);
      const auto y = layer.forward({{&x, first, count, cache_row}}, cache);
      CHECK(std::equal(y.begin(), y.end(), whole.begin() + first * kWidth));
    }
    CHECK(std::all_of(cache[0], cache[cache_row], [](float f) { return f == 0; }));
    CHECK(std::all_of(cache[cache_row + tokens], cache[tokens + 5], [](float f) { return f == 0; }));
  }
}

TEST_CASE("latent attention: what else is in the batch does not change a bit") {
  Layer layer;
  const std::vector<int> lengths{90, 3, 70};
  std::vector<Buffer<float>> texts;
  for (const int length : lengths) texts.push_back(random(length * kWidth, 50 + texts.size()));
  const Buffer<float> latent(static_cast<size_t>(300 * kCached));
  const Matrix<float> cache = latent.matrix(300, kCached);
  const auto alone = [&](size_t s) { return layer.forward({{&texts[s], 0, lengths[s], 0}}, {}); };
  const std::vector<float> want[] = {alone(0), alone(1), alone(2)};
  layer.forward({{&texts[0], 0, 30, 0}, {&texts[2], 0, 69, 200}}, cache);
  const auto y = layer.forward({{&texts[2], 69, 1, 200}, {&texts[1], 0, 3, 100}, {&texts[0], 30, 60, 0}}, cache);
  CHECK(std::equal(y.begin(), y.begin() + kWidth, want[2].begin() + 69 * kWidth));
  CHECK(std::equal(y.begin() + kWidth, y.begin() + 4 * kWidth, want[1].begin()));
  CHECK(std::equal(y.begin() + 4 * kWidth, y.end(), want[0].begin() + 30 * kWidth));
}

TEST_CASE("latent attention: the naive form is the absorbed one within rounding, and as blind to its neighbours") {
  Layer layer;
  const Buffer<float> x = random(150 * kWidth, 60), other = random(20 * kWidth, 61);
  const auto absorbed = layer.forward({{&x, 0, 150, 0}}, {});
  layer.form = LatentForm::kNaive;
  const auto naive = layer.forward({{&x, 0, 150, 0}}, {});
  float largest = 0, difference = 0;
  for (size_t i = 0; i < naive.size(); ++i) {
    largest = std::max(largest, std::abs(naive[i]));
    difference = std::max(difference, std::abs(naive[i] - absorbed[i]));
  }
  CHECK(difference > 0);  // they are two ways
  CHECK(difference < 1e-5f * largest);
  const auto beside = layer.forward({{&other, 0, 20, 0}, {&x, 0, 80, 0}}, {});
  CHECK(std::equal(beside.begin() + 20 * kWidth, beside.end(), naive.begin()));
}

TEST_CASE("latent attention: calls that cannot work are refused") {
  Layer layer;
  const Buffer<float> x = random(4 * kWidth, 9), latent(static_cast<size_t>(4 * kCached));
  CHECK_THROWS_AS(layer.forward({{&x, 0, 4, 0}}, latent.matrix(3, kCached)), base::Error);      // it is full
  CHECK_THROWS_AS(layer.forward({{&x, 0, 4, 0}}, latent.matrix(4, kCached - 1)), base::Error);  // of another model
  CHECK(std::ranges::all_of(latent.span(), [](float f) { return f == 0; }));  // before anything was written
  layer.form = LatentForm::kNaive;
  CHECK_THROWS_AS(layer.forward({{&x, 0, 4, 0}}, latent.matrix(4, kCached)), base::Error);
  layer.form = LatentForm::kAbsorbed;
  Buffer<float> dh(static_cast<size_t>(4 * kWidth));
  LatentScratch scratch;
  layer.forward({{&x, 0, 4, 0}}, {});
  CHECK_THROWS_AS(latent_attention_backward({.shape = kShape}, layer.weights, layer.activations,
                                            {x.matrix(4, kWidth), dh.matrix(4, kWidth), scratch}, {}, layer.threads),
                  base::Error);
}

}  // namespace
}  // namespace choir::nn
