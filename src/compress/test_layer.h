// For tests: one random layer with its inputs and its record, to be run again with other experts or another router.
#pragma once

#include <algorithm>

#include "compress/observe.h"
#include "compress/test_model.h"

namespace choir::compress {

struct LayerShape {
  std::string router;
  int experts, top_k;
  int tokens = 90, ranks = 1 << 20;
  uint64_t model_seed = 5, seed = 3;  // of the numbers, and of the inputs
};

struct ObservedLayer {
  static constexpr int kTokens = 90, kWidth = 20;

  TestModel made;
  tensor::Buffer<float> x, middle, z;
  LayerRecord record;

  // Tokens come in two batches, the first in two pieces.
  explicit ObservedLayer(const LayerShape& shape)
      : made(config_of(shape), shape.model_seed),
        x(static_cast<size_t>(shape.tokens) * kWidth),
        middle(x.size()),
        z(x.size()) {
    base::Rng rng(shape.seed);
    for (const tensor::Buffer<float>* buffer : {&x, &middle})
      for (float& v : buffer->span()) v = rng.normal();
    base::Threads threads(2);
    LayerObserver observer({made.model->router(0), tensors()}, shape.ranks, record, threads);
    const int half = shape.tokens / 2, n = shape.tokens;
    for (const auto& [first, count] : {std::pair{0, half - 5}, std::pair{half - 5, 5}, std::pair{half, n - half}}) {
      const auto rows = [&](const tensor::Buffer<float>& b) { return b.matrix(n, kWidth).slice_rows(first, count); };
      observer.add(rows(x), rows(middle), rows(z));
      if (first != 0) observer.end_batch();
    }
    observer.finish();
  }
  // With no more ranks than a token uses.
  ObservedLayer(const std::string& router, int experts, int top_k, uint64_t seed = 3)
      : ObservedLayer({router, experts, top_k, kTokens, top_k, seed + 2, seed}) {}

  static model::Config config_of(const LayerShape& shape) {
    model::Config config = small_config(shape.experts, shape.top_k, 1);
    config.layers[0].router = shape.router;
    return config;
  }

  int tokens() const { return record.tokens(); }
  const moe::MoeTensors<tensor::Weight>& tensors() const { return made.model->tensors().blocks[0].moe; }
  tensor::Matrix<const float> x_rows() const { return x.matrix(tokens(), kWidth); }
  Row input(int t) const { return {x_rows().row(t).begin(), x_rows().row(t).end()}; }

  // |z - z'|^2 of each token, z' from the layer of these tensors by this router; the experts that ran into `edges`.
  std::vector<double> errors(const moe::Router& router, const moe::MoeTensors<tensor::Weight>& moe,
                             int64_t* edges = nullptr) const {
    base::Threads threads(1);
    moe::MoeActivations activations;
    tensor::Buffer<float> other(x.size());
    moe::MoeStep step;
    step.tokens.x = x_rows();
    step.output = other.matrix(tokens(), kWidth);
    moe::moe_forward(router, moe, step, activations, threads);
    if (edges) *edges = activations.routing.plan.edges();
    std::vector<double> sums(static_cast<size_t>(tokens()), 0.0);
    for (int t = 0; t < tokens(); ++t)
      for (int d = 0; d < kWidth; ++d) {
        const double error = static_cast<double>(z.matrix(tokens(), kWidth)[t][d]) - step.output[t][d];
        sums[static_cast<size_t>(t)] += error * error;
      }
    return sums;
  }
  std::vector<double> run_again(const std::string& router, int64_t* edges = nullptr) const {
    return errors(moe::parse_router(router), tensors(), edges);
  }
  // Summed up, the layer with some experts alone.
  double run_again(const std::vector<int>& kept, std::span<const double> weight) const {
    model::Config config = made.model->config();
    config.layers[0].experts = static_cast<int>(kept.size());
    const Model smaller = made.model->with_layers(config, {kept});
    double sum = 0;
    size_t t = 0;
    for (const double error : errors(smaller.router(0), smaller.tensors().blocks[0].moe))
      sum += (weight.empty() ? 1 : weight[t++]) * error;
    return sum;
  }

  // Sets that the rule can live with: of each group as many.
  std::vector<int> some_experts(base::Rng& rng, int count) const {
    const int groups = record.rule.groups, size = record.experts / groups;
    std::vector<int> kept;
    for (int g = 0; g < groups; ++g)
      for (const int e : choose_random(rng, size, count / groups)) kept.push_back(g * size + e);
    return kept;
  }
};

struct TestRule {
  const char* router;
  int experts, top_k, least;  // how few may be left
};

// One of each row of the table of rules in docs/compress.md.
inline constexpr TestRule kTestRules[] = {
    {"linear > top_k(2) > all > chosen", 8, 2, 2},
    {"linear > top_k(4) > all > softmax(renorm, scale=1.5)", 16, 4, 4},
    {"linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5) + bias(0.001)", 12, 3, 3},
    {"linear > top_k(3) > all > sigmoid", 12, 3, 3},
    {"linear > top_k(3) > all > softmax(scale=4)", 12, 3, 3},
    {"linear(sigmoid) > groups(4, 2, 3, by=top2) > all > sigmoid_norm(2.5) + bias(0.001)", 16, 3, 8},
    {"linear > groups(4, 2, 3) > all > softmax(scale=2)", 16, 3, 8},
    {"linear(sqrt_softplus) > top_k(3) > all > sqrt_softplus_norm(1.5) + bias(0.001)", 12, 3, 3},
};

// A layer of one of them.
struct TestLayer : ObservedLayer {
  TestRule rule;

  explicit TestLayer(const TestRule& r, int ranks = 1 << 20, uint64_t seed = 5)
      : ObservedLayer({r.router, r.experts, r.top_k, kTokens, ranks, seed, seed - 2}), rule(r) {}
};

}  // namespace choir::compress
