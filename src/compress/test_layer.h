// For tests of skipping: one random layer with its inputs and its record, and the layer run again by another router.
#pragma once

#include "compress/observe.h"
#include "compress/test_model.h"

namespace choir::compress {

struct ObservedLayer {
  static constexpr int kTokens = 90, kWidth = 20;

  TestModel made;
  tensor::Buffer<float> x, middle, z;
  LayerRecord record;

  ObservedLayer(const std::string& router, int experts, int top_k, uint64_t seed = 3)
      : made(config_of(router, experts, top_k), seed + 2), x(kTokens * kWidth), middle(x.size()), z(x.size()) {
    base::Rng rng(seed);
    for (const tensor::Buffer<float>* buffer : {&x, &middle})
      for (float& v : buffer->span()) v = rng.normal();
    base::Threads threads(2);
    LayerObserver observer({made.model->router(0), tensors()}, top_k, record, threads);
    observer.add(x_rows(), middle.matrix(kTokens, kWidth), z.matrix(kTokens, kWidth));
    observer.end_batch();
    observer.finish();
  }

  static model::Config config_of(const std::string& router, int experts, int top_k) {
    model::Config config = small_config(experts, top_k, 1);
    config.layers[0].router = router;
    return config;
  }

  const moe::MoeTensors<tensor::Weight>& tensors() const { return made.model->tensors().blocks[0].moe; }
  tensor::Matrix<const float> x_rows() const { return x.matrix(kTokens, kWidth); }

  // |z - z'|^2 of each token, z' from the layer with another router; the experts that ran into `edges`.
  std::vector<double> run_again(const std::string& router, int64_t* edges = nullptr) const {
    base::Threads threads(1);
    moe::MoeActivations activations;
    tensor::Buffer<float> other(x.size());
    moe::MoeStep step;
    step.tokens.x = x_rows();
    step.output = other.matrix(kTokens, kWidth);
    moe::moe_forward(moe::parse_router(router), tensors(), step, activations, threads);
    if (edges) *edges = activations.routing.plan.edges();
    std::vector<double> errors(kTokens, 0.0);
    for (int t = 0; t < kTokens; ++t)
      for (int d = 0; d < kWidth; ++d) {
        const double error = static_cast<double>(z.matrix(kTokens, kWidth)[t][d]) - step.output[t][d];
        errors[static_cast<size_t>(t)] += error * error;
      }
    return errors;
  }
};

}  // namespace choir::compress
