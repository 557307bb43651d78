// For tests of repairs: one layer with its inputs, its record, and ways to spoil or copy its experts.
#pragma once

#include "compress/gain_policy.h"
#include "compress/layer_run.h"
#include "compress/observe.h"
#include "compress/test_model.h"

namespace choir::compress {

struct RepairCase {
  static constexpr int kTokens = 120, kWidth = 20;

  TestModel made;
  tensor::Buffer<float> x, z;
  LayerRecord record;

  // A mixture of experts of width 12. `spoil` changes its numbers before they are observed.
  explicit RepairCase(const std::string& router, int experts, int ranks = 1 << 20,
                      const std::function<void(TestModel&)>& spoil = {})
      : made(config_of(router, experts)), x(kTokens * kWidth), z(x.size()) {
    if (spoil) spoil(made);
    base::Rng rng(3);
    for (float& v : x.span()) v = rng.normal();
    const tensor::Buffer<float> middle(x.size());
    base::Threads threads(2);
    LayerObserver observer({model().router(0), model().tensors().blocks[0].moe}, ranks, record, threads);
    observer.add(inputs(), middle.matrix(kTokens, kWidth), z.matrix(kTokens, kWidth));
    observer.end_batch();
    observer.finish();
  }

  const Model& model() const { return *made.model; }
  tensor::Matrix<const float> inputs() const { return x.matrix(kTokens, kWidth); }
  LayerTarget target(std::span<const double> weight = {}) const {
    return {inputs(), z.matrix(kTokens, kWidth), weight};
  }
  double loss_of(const Model& other, std::span<const double> weight = {}) const {
    base::Threads threads(2);
    return layer_loss(other, 0, target(weight), threads);
  }
  Model kept(const std::vector<int>& experts, GainPolicy policy) const {
    const KeptLayer layer{experts, policy, record.gained_mean};
    return with_policies(model(), {&layer, 1});
  }

  static model::Config config_of(const std::string& router, int experts) {
    model::Config config = small_config(experts, 2, 1);
    config.layers[0].router = moe::parse_router(router).expression();
    config.layers[0].top_k = moe::parse_router(router).choices(experts);
    return config;
  }
};

inline float* numbers_in(const tensor::Weight& weight) {
  return const_cast<float*>(static_cast<const float*>(weight.data));
}

// Expert `to` becomes `from` with its answers times `factor`, its hidden neurons turned around by `turn` places.
inline void copy_expert(TestModel& made, int from, int to, float factor, int turn = 0) {
  const auto& moe = made.model->tensors().blocks[0].moe;
  const int f = moe.w1[0].rows, d = moe.w1[0].cols;
  for (int i = 0; i < f; ++i)
    for (int k = 0; k < d; ++k) {
      const int j = (i + turn) % f;
      for (const auto* list : {&moe.w1, &moe.w3})
        numbers_in((*list)[to])[j * d + k] = numbers_in((*list)[from])[i * d + k];
      numbers_in(moe.w2[to])[k * f + j] = factor * numbers_in(moe.w2[from])[k * f + i];
    }
}

}  // namespace choir::compress
