#include "train/geometry.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/rng.h"

namespace choir::train {
namespace {

using tensor::Buffer;
using tensor::Weight;

constexpr int kRows = 150, kWidth = 8, kExperts = 4, kHidden = 5;

Buffer<float> random(int rows, int cols, uint64_t seed) {
  base::Rng rng(seed);
  Buffer<float> numbers(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  for (float& v : numbers.span()) v = rng.normal();
  return numbers;
}

// Every row proposes all experts, in their order; those that take row t weigh it most at expert t % 3. Expert 3, which
// weighs even more, takes no row at all.
moe::Routing thirds() {
  moe::Routing routing;
  for (int t = 0; t < kRows; ++t)
    for (int e = 0; e < kExperts; ++e) {
      routing.proposed.push_back(e);
      routing.chosen.push_back(e < 3 ? e : -1);
    }
  moe::build_plan(routing.chosen, kRows, kExperts, kExperts, routing.plan);
  for (int e = 0; e < 3; ++e)
    for (int t = 0; t < kRows; ++t) routing.plan.weight[static_cast<size_t>(e * kRows + t)] = t % 3 == e ? 0.4f : 0.3f;
  return routing;
}

TEST_CASE("geometry: the index of Calinski and Harabasz, by distances to means") {
  const Buffer<float> numbers = random(kRows, kWidth, 1);
  const Matrix<float> x = numbers.matrix(kRows, kWidth);
  for (int t = 0; t < kRows; ++t) x[t][t % 3] += 2;
  LayerGeometry geometry(kExperts, kWidth);
  geometry.add_inputs(x.slice_rows(0, 90), thirds());
  CHECK(geometry.ch_index().has_value());
  geometry.add_inputs(x.slice_rows(90, kRows - 90), thirds());
  double within = 0, between = 0;
  for (int i = 0; i < kWidth; ++i) {
    double mean = 0, group[3] = {0, 0, 0};
    for (int t = 0; t < kRows; ++t) {
      mean += static_cast<double>(x[t][i]) / kRows;
      group[t % 3] += static_cast<double>(x[t][i]) / (kRows / 3);
    }
    for (int t = 0; t < kRows; ++t) within += std::pow(static_cast<double>(x[t][i]) - group[t % 3], 2);
    for (const double g : group) between += kRows / 3 * (g - mean) * (g - mean);
  }
  REQUIRE(geometry.ch_index());
  CHECK(*geometry.ch_index() == doctest::Approx(between / 2 / (within / (kRows - 3))));
}

TEST_CASE("geometry: one group has no index") {
  const Buffer<float> numbers = random(3, kWidth, 2);
  moe::Routing routing;
  routing.proposed = routing.chosen = {1, 1, -1};
  moe::build_plan(routing.chosen, 3, 1, kExperts, routing.plan);
  routing.plan.weight = {1, 1};
  LayerGeometry geometry(kExperts, kWidth);
  geometry.add_inputs(numbers.matrix(3, kWidth), routing);
  CHECK(!geometry.ch_index());
}

TEST_CASE("geometry: cosines of answers, against plain loops") {
  const Buffer<float> numbers = random(kRows, kWidth, 3);
  const Matrix<float> x = numbers.matrix(kRows, kWidth);
  std::vector<Buffer<float>> storage;
  moe::MoeTensors<Weight> weights;
  for (int e = 0; e < kExperts; ++e) {
    const auto add = [&](std::vector<Weight>& list, int rows, int cols) {
      storage.push_back(random(rows, cols, 10 + storage.size()));
      list.emplace_back(storage.back().matrix(rows, cols));
    };
    add(weights.w1, kHidden, kWidth);
    add(weights.w3, kHidden, kWidth);
    add(weights.w2, kWidth, kHidden);
  }
  LayerGeometry geometry(kExperts, kWidth);
  base::Threads threads(2);
  geometry.add_answers(x.slice_rows(0, 70), weights, threads);
  geometry.add_answers(x.slice_rows(70, kRows - 70), weights, threads);

  const auto answer = [&](int e, int t) {
    const Matrix<const float> w1 = tensor::as_matrix(weights.w1[e]), w3 = tensor::as_matrix(weights.w3[e]),
                              w2 = tensor::as_matrix(weights.w2[e]);
    std::vector<double> y(kWidth);
    for (int f = 0; f < kHidden; ++f) {
      double gate = 0, up = 0;
      for (int i = 0; i < kWidth; ++i) {
        gate += static_cast<double>(w1[f][i]) * static_cast<double>(x[t][i]);
        up += static_cast<double>(w3[f][i]) * static_cast<double>(x[t][i]);
      }
      const double hidden = gate / (1 + std::exp(-gate)) * up;
      for (int i = 0; i < kWidth; ++i) y[i] += hidden * static_cast<double>(w2[i][f]);
    }
    return y;
  };
  const auto cosine = [](const std::vector<double>& u, const std::vector<double>& v) {
    double uv = 0, uu = 0, vv = 0;
    for (int i = 0; i < kWidth; ++i) {
      uv += u[i] * v[i];
      uu += u[i] * u[i];
      vv += v[i] * v[i];
    }
    return uv / std::sqrt(uu * vv);
  };
  const auto cosines = geometry.cosines();
  for (int a = 0; a < kExperts; ++a)
    for (int b = 0; b < kExperts; ++b) {
      double mean = 0;
      for (int t = 0; t < kRows; ++t) mean += cosine(answer(a, t), answer(b, t)) / kRows;
      CHECK(cosines[a][b] == doctest::Approx(mean).epsilon(1e-4));
    }
}

}  // namespace
}  // namespace choir::train
