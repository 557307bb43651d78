// The attention half of a block against the kernels' references and the complex step.
#include "nn/attention_layer.h"

#include <doctest/doctest.h>

#include <numeric>

#include "kernels/reference/attention.h"
#include "kernels/reference/compare.h"
#include "kernels/reference/layer_norm.h"
#include "kernels/reference/rms_norm.h"
#include "kernels/reference/rope.h"
#include "kernels/rope.h"
#include "tests/gradients/complex_step.h"

namespace choir::nn {
namespace {

namespace reference = kernels::reference;

constexpr int kWidth = 6, kHeadWidth = 4, kPositions = 80;
constexpr double kTheta = 100, kEpsilon = 1e-5;

// What a family may have besides.
struct Features {
  bool layer_norm = false, qkv_bias = false, o_bias = false, sinks = false;
  enum class QkNorm { kNone, kHead, kFull } qk_norm = QkNorm::kNone;
  double clip = 0, residual = 1;
  kernels::Pairs pairs = kernels::Pairs::kHalves;
  int turning = kHeadWidth;  // of a head's numbers
  double rope_factor = 1;
};

struct Shape {
  kernels::AttentionShape attention;
  std::vector<int> lengths;  // of the sequences
  Features features{};

  int tokens() const { return std::accumulate(lengths.begin(), lengths.end(), 0); }
  int q() const { return attention.heads * kHeadWidth; }
  int k() const { return attention.kv_heads * kHeadWidth; }
  int v() const { return attention.kv_heads * attention.values(); }
  int mixed() const { return attention.heads * attention.values(); }
  int norm_of(int all) const {
    if (features.qk_norm == Features::QkNorm::kNone) return 0;
    return features.qk_norm == Features::QkNorm::kHead ? kHeadWidth : all;
  }

  enum Part { kInput, kNorm, kQ, kK, kV, kO, kNormBias, kQBias, kKBias, kVBias, kOBias, kQNorm, kKNorm, kSinks };
  // The rows and columns of each part; no rows: absent.
  std::vector<std::pair<int, int>> parts() const {
    const auto& f = features;
    return {{tokens(), kWidth},
            {1, kWidth},
            {q(), kWidth},
            {k(), kWidth},
            {v(), kWidth},
            {kWidth, mixed()},
            {f.layer_norm, kWidth},
            {f.qkv_bias, q()},
            {f.qkv_bias, k()},
            {f.qkv_bias, v()},
            {f.o_bias, kWidth},
            {norm_of(q()) > 0, norm_of(q())},
            {norm_of(k()) > 0, norm_of(k())},
            {f.sinks, attention.heads}};
  }
  std::vector<int> sizes() const {
    std::vector<int> result;
    for (const auto& [rows, cols] : parts()) result.push_back(rows * cols);
    return result;
  }
};

// Consecutive pieces of one list.
template <class T>
std::vector<std::vector<T>> split(const std::vector<T>& all, const std::vector<int>& sizes) {
  std::vector<std::vector<T>> parts;
  auto next = all.begin();
  for (const int size : sizes) {
    parts.emplace_back(next, next + size);
    next += size;
  }
  return parts;
}

// y (N,R) = x (N,C) w^T + bias, which may be empty.
template <class S>
std::vector<S> linear(const std::vector<S>& x, const std::vector<S>& w, const std::vector<S>& bias, size_t cols) {
  std::vector<S> y;
  for (size_t t = 0; t < x.size(); t += cols)
    for (size_t r = 0; r < w.size(); r += cols) {
      y.push_back(bias.empty() ? S(0) : bias[r / cols]);
      for (size_t c = 0; c < cols; ++c) y.back() += x[t + c] * w[r + c];
    }
  return y;
}

// of(piece, number of the piece) for each `cols` numbers.
template <class S, class Of>
std::vector<S> each(const std::vector<S>& x, size_t cols, const Of& of) {
  std::vector<S> y;
  for (size_t i = 0; i < x.size(); i += cols) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(i);
    const std::vector<S> part = of(std::vector<S>(first, first + static_cast<std::ptrdiff_t>(cols)), i / cols);
    y.insert(y.end(), part.begin(), part.end());
  }
  return y;
}

// RMS norm, where there is one, and clip.
template <class S>
std::vector<S> refined(const Shape& shape, std::vector<S> x, const std::vector<S>& norm) {
  if (!norm.empty())
    x = each(x, norm.size(),
             [&](const std::vector<S>& row, size_t) { return reference::rms_norm<S>(row, norm, kEpsilon); });
  const double clip = shape.features.clip;
  if (clip > 0)
    for (S& v : x)
      if (std::abs(std::real(v)) > clip) v = std::real(v) > 0 ? clip : -clip;
  return x;
}

// Every head of every row, row t at position t.
template <class S>
std::vector<S> rotated(const Shape& shape, const std::vector<S>& x, int cols) {
  const Features& f = shape.features;
  const reference::Turned as{reference::plain_frequencies(static_cast<size_t>(f.turning), kTheta), f.rope_factor,
                             f.pairs};
  return each(x, kHeadWidth, [&](const std::vector<S>& head, size_t i) {
    return reference::rope(head, static_cast<int>(i) * kHeadWidth / cols, as, 1);
  });
}

// One sequence: x + residual * o(attention(rope(q), rope(k), v)).
template <class S>
std::vector<S> layer(const Shape& shape, const std::vector<S>& x, const std::vector<std::vector<S>>& parts) {
  const std::vector<S> normed = each(x, kWidth, [&](const std::vector<S>& row, size_t) {
    if (shape.features.layer_norm)
      return reference::layer_norm<S>(row, parts[Shape::kNorm], parts[Shape::kNormBias], kEpsilon);
    return reference::rms_norm<S>(row, parts[Shape::kNorm], kEpsilon);
  });
  const auto q = linear(normed, parts[Shape::kQ], parts[Shape::kQBias], kWidth),
             k = linear(normed, parts[Shape::kK], parts[Shape::kKBias], kWidth),
             v = linear(normed, parts[Shape::kV], parts[Shape::kVBias], kWidth);
  const reference::AttentionOf<S> in{
      shape.attention, rotated(shape, refined(shape, q, parts[Shape::kQNorm]), shape.q()),
      rotated(shape, refined(shape, k, parts[Shape::kKNorm]), shape.k()), refined(shape, v, {}), parts[Shape::kSinks]};
  std::vector<S> y =
      linear(reference::attention(in), parts[Shape::kO], parts[Shape::kOBias], static_cast<size_t>(shape.mixed()));
  for (size_t i = 0; i < y.size(); ++i) y[i] = x[i] + shape.features.residual * y[i];
  return y;
}

template <class S>
std::vector<S> layer(const Shape& shape, const std::vector<S>& variables) {
  const auto parts = split(variables, shape.sizes());
  std::vector<S> y;
  auto first = parts[0].begin();
  for (const int length : shape.lengths) {
    const auto part = layer<S>(shape, {first, first + length * kWidth}, parts);
    y.insert(y.end(), part.begin(), part.end());
    first += length * kWidth;
  }
  return y;
}

struct Result {
  std::vector<float> y, gradient;  // the gradient in the order of the variables
};

// The tensors of a layer over a flat list that begins with the input.
template <class T>
AttentionTensors<T> tensors_over(const Shape& shape, std::vector<float>& all) {
  std::vector<T> t;
  float* next = all.data();
  for (const auto& [rows, cols] : shape.parts()) {
    const Matrix<float> m(next, rows, cols);
    next += rows * cols;
    if (rows == 0)
      t.emplace_back();
    else if constexpr (std::is_same_v<T, Weight>)
      t.push_back(T(Matrix<const float>(m)));
    else
      t.push_back(m);
  }
  return {t[Shape::kNorm],     t[Shape::kQ],     t[Shape::kK],     t[Shape::kV],     t[Shape::kO],
          t[Shape::kNormBias], t[Shape::kQBias], t[Shape::kKBias], t[Shape::kVBias], t[Shape::kOBias],
          t[Shape::kQNorm],    t[Shape::kKNorm], t[Shape::kSinks]};
}

Result run(const Shape& shape, const std::vector<double>& variables, const std::vector<double>& dy, int count,
           kernels::Sums sums = kernels::Sums::kLanes) {
  base::Threads threads(count);
  auto all = reference::narrow(variables);
  std::vector<Sequence> sequences;
  std::vector<int> positions;
  for (const int length : shape.lengths) {
    const int row = static_cast<int>(positions.size());
    sequences.push_back({row, length, 0, row});
    for (int i = 0; i < length; ++i) positions.push_back(i);
  }
  const Features& f = shape.features;
  Buffer<float> table(static_cast<size_t>(kPositions * f.turning));
  const Matrix<float> rope = table.matrix(kPositions, f.turning);
  kernels::RopeFrequencies frequencies = kernels::rope_frequencies({.theta = kTheta}, f.turning, kPositions);
  frequencies.factor = f.rope_factor;
  kernels::rope_table(frequencies, rope);
  const AttentionContext context{.shape = shape.attention,
                                 .epsilon = static_cast<float>(kEpsilon),
                                 .rope = rope,
                                 .positions = positions,
                                 .sequences = sequences,
                                 .sums = sums,
                                 .pairs = f.pairs,
                                 .clip = static_cast<float>(f.clip),
                                 .residual = static_cast<float>(f.residual)};
  const auto weights = tensors_over<Weight>(shape, all);
  const int n = shape.tokens();
  Result r{std::vector<float>(dy.size()), std::vector<float>(all.size(), 1.0f)};
  AttentionActivations activations;
  const Matrix<const float> x(all.data(), n, kWidth);
  attention_layer_forward(context, weights, {x, {r.y.data(), n, kWidth}, {}}, activations, threads);
  std::ranges::copy(dy, r.gradient.begin());
  AttentionScratch scratch;
  attention_layer_backward(context, weights, activations, {x, {r.gradient.data(), n, kWidth}, scratch},
                           tensors_over<Matrix<float>>(shape, r.gradient), threads);
  for (size_t i = dy.size(); i < r.gradient.size(); ++i) r.gradient[i] -= 1;  // gradients add to what is there
  return r;
}

std::vector<double> random_variables(const Shape& shape) {
  std::vector<double> all;
  uint64_t seed = 1;
  for (const int size : shape.sizes()) {
    const auto part = reference::random(static_cast<size_t>(size), 0.7, seed++);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

void check(const Shape& shape) {
  const auto variables = random_variables(shape);
  const auto dy = reference::random(static_cast<size_t>(shape.tokens() * kWidth), 1, 77);
  const auto derivative = complex_step(variables, [&](const std::vector<std::complex<double>>& z) {
    const auto y = layer(shape, z);
    std::complex<double> loss = 0;
    for (size_t i = 0; i < y.size(); ++i) loss += dy[i] * y[i];
    return loss;
  });
  const auto want = split(derivative, shape.sizes());
  for (const auto sums : {kernels::Sums::kLanes, kernels::Sums::kPacked}) {
    const Result r = run(shape, variables, dy, 2, sums);
    CHECK(reference::error(layer(shape, variables), r.y) < 1e-5);
    const auto got = split(r.gradient, shape.sizes());
    for (size_t part = 0; part < want.size(); ++part) {
      CAPTURE(part);
      CHECK(reference::error(want[part], got[part]) < 1e-5);
    }
  }
}

TEST_CASE("attention layer: output and every gradient agree with the reference") {
  check({{.heads = 1, .kv_heads = 1, .head_width = kHeadWidth, .window = 0}, {5}});
  check({{.heads = 4, .kv_heads = 2, .head_width = kHeadWidth, .window = 0}, {5, 1, 7}});
  check({{.heads = 3, .kv_heads = 1, .head_width = kHeadWidth, .window = 0}, {6}});
}

TEST_CASE("attention layer: the same with a sliding window") {
  for (const int window : {1, 3, 7}) {
    CAPTURE(window);
    check({{.heads = 4, .kv_heads = 2, .head_width = kHeadWidth, .window = window}, {7, 4}});
  }
}

constexpr kernels::AttentionShape kGrouped{.heads = 4, .kv_heads = 2, .head_width = kHeadWidth, .window = 4};

// Each feature alone: the reference sees it, so a layer that does not is found.
TEST_CASE("attention layer: the same with what single families have") {
  using QkNorm = Features::QkNorm;
  const std::pair<const char*, Features> each_alone[] = {
      {"layer norm", {.layer_norm = true}},
      {"bias of q, k, v", {.qkv_bias = true}},
      {"bias of o", {.o_bias = true}},
      {"sinks", {.sinks = true}},
      {"norm of heads", {.qk_norm = QkNorm::kHead}},
      {"norm of all heads", {.qk_norm = QkNorm::kFull}},
      {"clip", {.clip = 0.8}},
      {"clip behind a norm", {.qk_norm = QkNorm::kHead, .clip = 0.5}},
      {"multiplied branch", {.residual = 0.22}},
      {"neighbours", {.pairs = kernels::Pairs::kNeighbours}},
      {"half a head turns", {.turning = kHeadWidth / 2}},
      {"a factor on the rotation", {.rope_factor = 1.35}}};
  for (const auto& [name, features] : each_alone) {
    CAPTURE(std::string(name));
    const Shape shape{kGrouped, {7, 4}, features}, plain{kGrouped, {7, 4}};
    const auto variables = random_variables(shape);
    const std::vector<double> without(variables.begin(), variables.begin() + std::ssize(random_variables(plain)));
    CHECK(reference::error(layer(plain, without), layer(shape, variables)) > 1e-2);
    check(shape);
  }
}

TEST_CASE("attention layer: the same with everything at once, values of another width and a scale") {
  const Features all{.layer_norm = true,
                     .qkv_bias = true,
                     .o_bias = true,
                     .sinks = true,
                     .qk_norm = Features::QkNorm::kFull,
                     .clip = 0.9,
                     .residual = 0.5,
                     .pairs = kernels::Pairs::kNeighbours,
                     .turning = kHeadWidth / 2,
                     .rope_factor = 1.2};
  for (const int values : {2, 7}) {
    kernels::AttentionShape attention = kGrouped;
    attention.value_width = values;
    attention.scale = 0.7f;
    check({attention, {5, 1, 7}, all});
  }
}

TEST_CASE("attention layer: the same bits for any number of threads") {
  const Features full{.layer_norm = true,
                      .qkv_bias = true,
                      .o_bias = true,
                      .sinks = true,
                      .qk_norm = Features::QkNorm::kHead,
                      .clip = 1};
  for (const Features& features : {Features{}, full}) {
    const Shape shape{{.heads = 4, .kv_heads = 2, .head_width = kHeadWidth, .window = 5}, {33, 70}, features};
    const auto variables = random_variables(shape);
    const auto dy = reference::random(static_cast<size_t>(shape.tokens() * kWidth), 1, 77);
    const Result one = run(shape, variables, dy, 1), three = run(shape, variables, dy, 3);
    CHECK(one.y == three.y);
    CHECK(one.gradient == three.gradient);
  }
}

}  // namespace
}  // namespace choir::nn
