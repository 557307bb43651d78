// For tests: the record of one random layer by each rule, and the layer itself to be run again.
#pragma once

#include <algorithm>

#include "compress/observe.h"
#include "compress/test_model.h"

namespace choir::compress {

inline constexpr int kTestTokens = 90, kTestWidth = 20;

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

// A layer with its inputs in two batches.
struct TestLayer {
  TestModel made;
  TestRule rule;
  tensor::Buffer<float> x, middle, z;
  LayerRecord record;

  explicit TestLayer(const TestRule& r, int ranks = 1 << 20, uint64_t seed = 5)
      : made(config_of(r), seed), rule(r), x(kTestTokens * kTestWidth), middle(x.size()), z(x.size()) {
    base::Rng rng(seed - 2);
    for (const tensor::Buffer<float>* buffer : {&x, &middle})
      for (float& v : buffer->span()) v = rng.normal();
    base::Threads threads(2);
    LayerObserver observer({made.model->router(0), made.model->tensors().blocks[0].moe}, ranks, record, threads);
    for (const auto& [first, count] : {std::pair{0, 40}, std::pair{40, 10}, std::pair{50, 40}}) {
      const auto rows = [&](const tensor::Buffer<float>& b) {
        return b.matrix(kTestTokens, kTestWidth).slice_rows(first, count);
      };
      observer.add(rows(x), rows(middle), rows(z));
      if (first != 0) observer.end_batch();  // the first batch comes in two pieces
    }
    observer.finish();
  }

  static model::Config config_of(const TestRule& rule) {
    model::Config config = small_config(rule.experts, rule.top_k, 1);
    config.layers[0].router = rule.router;
    return config;
  }

  // The layer run again with some experts alone.
  double run_again(const std::vector<int>& kept, std::span<const double> weight) const {
    model::Config config = made.model->config();
    config.layers[0].experts = static_cast<int>(kept.size());
    const Model smaller = made.model->with_layers(config, {kept});
    base::Threads threads(1);
    moe::MoeActivations activations;
    tensor::Buffer<float> other(x.size());
    moe::MoeStep step;
    step.tokens.x = x.matrix(kTestTokens, kTestWidth);
    step.output = other.matrix(kTestTokens, kTestWidth);
    moe::moe_forward(smaller.router(0), smaller.tensors().blocks[0].moe, step, activations, threads);
    double sum = 0;
    for (int t = 0; t < kTestTokens; ++t)
      for (int d = 0; d < kTestWidth; ++d) {
        const double error = static_cast<double>(z.matrix(kTestTokens, kTestWidth)[t][d]) - step.output[t][d];
        sum += (weight.empty() ? 1 : weight[static_cast<size_t>(t)]) * error * error;
      }
    return sum;
  }

  // Sets that the rule can live with: of each group as many.
  std::vector<int> some_experts(base::Rng& rng, int count) const {
    const int groups = record.rule.groups, size = rule.experts / groups;
    std::vector<int> kept;
    for (int g = 0; g < groups; ++g)
      for (const int e : choose_random(rng, size, count / groups)) kept.push_back(g * size + e);
    return kept;
  }
};

}  // namespace choir::compress
