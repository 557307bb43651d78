// The attention half of a block against the kernels' references and the complex step.
#include "nn/attention_layer.h"

#include <doctest/doctest.h>

#include <numeric>

#include "kernels/reference/attention.h"
#include "kernels/reference/compare.h"
#include "kernels/reference/rms_norm.h"
#include "kernels/reference/rope.h"
#include "kernels/rope.h"
#include "tests/gradients/complex_step.h"

namespace choir::nn {
namespace {

namespace reference = kernels::reference;

constexpr int kWidth = 6, kHeadWidth = 4;
constexpr double kTheta = 100, kEpsilon = 1e-5;

struct Shape {
  kernels::AttentionShape attention;
  std::vector<int> lengths;  // of the sequences

  int tokens() const { return std::accumulate(lengths.begin(), lengths.end(), 0); }
  int q() const { return attention.heads * kHeadWidth; }
  int kv() const { return attention.kv_heads * kHeadWidth; }
  // The input, then norm, q, k, v, o.
  std::vector<int> sizes() const {
    return {tokens() * kWidth, kWidth, q() * kWidth, kv() * kWidth, kv() * kWidth, kWidth * q()};
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

// y (N,R) = x (N,C) w^T.
template <class S>
std::vector<S> linear(const std::vector<S>& x, const std::vector<S>& w, size_t cols) {
  std::vector<S> y;
  for (size_t t = 0; t < x.size(); t += cols)
    for (size_t r = 0; r < w.size(); r += cols) {
      y.emplace_back(0);
      for (size_t c = 0; c < cols; ++c) y.back() += x[t + c] * w[r + c];
    }
  return y;
}

// Every head of every row, row t at position t.
template <class S>
std::vector<S> rotated(const std::vector<S>& x, size_t cols) {
  std::vector<S> y;
  for (size_t i = 0; i < x.size(); i += kHeadWidth) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(i);
    const auto head = reference::rope<S>({first, first + kHeadWidth}, static_cast<int>(i / cols), kTheta, 1);
    y.insert(y.end(), head.begin(), head.end());
  }
  return y;
}

// One sequence: x + o(attention(rope(q), rope(k), v)).
template <class S>
std::vector<S> layer(const Shape& shape, const std::vector<S>& x, const std::vector<std::vector<S>>& parts) {
  std::vector<S> normed;
  for (size_t t = 0; t < x.size(); t += kWidth) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(t);
    const auto row = reference::rms_norm<S>({first, first + kWidth}, parts[1], kEpsilon);
    normed.insert(normed.end(), row.begin(), row.end());
  }
  const reference::AttentionOf<S> in{
      shape.attention, rotated(linear(normed, parts[2], kWidth), static_cast<size_t>(shape.q())),
      rotated(linear(normed, parts[3], kWidth), static_cast<size_t>(shape.kv())), linear(normed, parts[4], kWidth)};
  std::vector<S> y = linear(reference::attention(in), parts[5], static_cast<size_t>(shape.q()));
  for (size_t i = 0; i < y.size(); ++i) y[i] += x[i];
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
  float* next = all.data() + shape.tokens() * kWidth;
  const auto take = [&](int rows, int cols) {
    const Matrix<float> m(next, rows, cols);
    next += rows * cols;
    if constexpr (std::is_same_v<T, Weight>)
      return T(Matrix<const float>(m));
    else
      return m;
  };
  return {take(1, kWidth), take(shape.q(), kWidth), take(shape.kv(), kWidth), take(shape.kv(), kWidth),
          take(kWidth, shape.q())};
}

Result run(const Shape& shape, const std::vector<double>& variables, const std::vector<double>& dy, int count) {
  base::Threads threads(count);
  auto all = reference::narrow(variables);
  std::vector<Sequence> sequences;
  std::vector<int> positions;
  for (const int length : shape.lengths) {
    const int row = static_cast<int>(positions.size());
    sequences.push_back({row, length, 0, row});
    for (int i = 0; i < length; ++i) positions.push_back(i);
  }
  Buffer<float> rope(64 * kHeadWidth);
  kernels::rope_table(kernels::rope_frequencies({.theta = kTheta}, kHeadWidth, 64), rope.matrix(64, kHeadWidth));
  const AttentionContext context{shape.attention, static_cast<float>(kEpsilon), rope.matrix(64, kHeadWidth), positions,
                                 sequences};
  const auto weights = tensors_over<Weight>(shape, all);
  const int n = shape.tokens();
  Result r{std::vector<float>(dy.size()), std::vector<float>(all.size(), 1.0f)};
  AttentionActivations activations;
  const Matrix<const float> x(all.data(), n, kWidth);
  attention_layer_forward(context, weights, {x, {r.y.data(), n, kWidth}, {}}, activations, threads);
  std::ranges::copy(dy, r.gradient.begin());
  attention_layer_backward(context, weights, activations, {x, {r.gradient.data(), n, kWidth}},
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
  const Result r = run(shape, variables, dy, 2);
  CHECK(reference::error(layer(shape, variables), r.y) < 1e-5);
  const auto derivative = complex_step(variables, [&](const std::vector<std::complex<double>>& z) {
    const auto y = layer(shape, z);
    std::complex<double> loss = 0;
    for (size_t i = 0; i < y.size(); ++i) loss += dy[i] * y[i];
    return loss;
  });
  const auto want = split(derivative, shape.sizes());
  const auto got = split(r.gradient, shape.sizes());
  for (size_t part = 0; part < want.size(); ++part) {
    CAPTURE(part);
    CHECK(reference::error(want[part], got[part]) < 1e-5);
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

TEST_CASE("attention layer: the same bits for any number of threads") {
  const Shape shape{{.heads = 4, .kv_heads = 2, .head_width = kHeadWidth, .window = 5}, {33, 20}};
  const auto variables = random_variables(shape);
  const auto dy = reference::random(static_cast<size_t>(shape.tokens() * kWidth), 1, 77);
  const Result one = run(shape, variables, dy, 1), three = run(shape, variables, dy, 3);
  CHECK(one.y == three.y);
  CHECK(one.gradient == three.gradient);
}

}  // namespace
}  // namespace choir::nn
