// For tests: the record of one random layer with its inputs, and answers computed again in plain loops.
#pragma once

#include "compress/observe.h"
#include "compress/test_model.h"

namespace choir::compress {

// One of each row of the table of rules in docs/compress.md.
constexpr const char* kRouters[] = {
    "linear > top_k(3) > all > chosen",
    "linear > top_k(3) > all > softmax(renorm, scale=1.5)",
    "linear(sigmoid) > top_k(3) > all > sigmoid_norm(2.5) + bias(0.001)",
    "linear > top_k(3) > all > sigmoid",
    "linear > top_k(3) > all > softmax(scale=4)",
    "linear(sigmoid) > groups(4, 2, 3, by=top2) > all > sigmoid_norm(2.5) + bias(0.001)",
};

struct ObservedLayer {
  static constexpr int kExperts = 12, kWidth = 20;

  TestModel made;
  tensor::Buffer<float> x, middle, z;
  LayerRecord record;

  // Tokens come in two batches, the first in two pieces.
  explicit ObservedLayer(const char* router, int tokens = 60, uint64_t seed = 3, int ranks = 8)
      : made(config_of(router)), x(static_cast<size_t>(tokens) * kWidth), middle(x.size()), z(x.size()) {
    base::Rng rng(seed);
    for (const tensor::Buffer<float>* buffer : {&x, &middle})
      for (float& v : buffer->span()) v = rng.normal();
    base::Threads threads(1);
    LayerObserver observer({made.model->router(0), made.model->tensors().blocks[0].moe}, ranks, record, threads);
    const int half = tokens / 2;
    for (const auto& [first, count] :
         {std::pair{0, half - 5}, std::pair{half - 5, 5}, std::pair{half, tokens - half}}) {
      const auto rows = [&](const tensor::Buffer<float>& b) {
        return b.matrix(tokens, kWidth).slice_rows(first, count);
      };
      observer.add(rows(x), rows(middle), rows(z));
      if (first != 0) observer.end_batch();
    }
    observer.finish();
  }

  static model::Config config_of(const char* router) {
    model::Config config = small_config(kExperts, 3, 1);
    config.layers[0].router = router;
    return config;
  }

  Row input(int t) const {
    const auto row = std::span<const float>(x.span()).subspan(static_cast<size_t>(t) * kWidth, kWidth);
    return {row.begin(), row.end()};
  }
};

}  // namespace choir::compress
