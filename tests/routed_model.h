// Small random models with a router of one's own, whose routers' numbers have been through training steps.
#pragma once

#include <algorithm>
#include <string>

#include "model/backward.h"
#include "moe/parse.h"
#include "tests/flat_parameters.h"

namespace choir::tests {

// Every alias, and words that no alias has.
inline std::vector<std::string> router_expressions() {
  std::vector<std::string> all;
  for (const moe::Alias& alias : moe::aliases()) all.emplace_back(alias.name);
  for (const char* more :
       {"linear(residual) > top_k(2) > fifo(factor(1), order=slot) > softmax + load(0.1)",
        "linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5) + bias(0.05) + load(0.1, scope=sequence)",
        "grap_cosine(learn, center=0.5) > top_k(2) > top_capacity(etr_sum, drop=reroute) > softmax(renorm)",
        "linear > top_k(2) > skip(0.6) > softmax(renorm)", "linear > top_k(4) > skip(tail=0.4) > chosen(over=6)",
        "linear > groups(4, 2, 4) > skip(ser=0.5, least=2) > softmax(renorm)",
        "linear(sigmoid) > top_k(4) > skip(tail=0.5) > sigmoid_norm(2.5) + bias(0.05)",
        "dense_cosine > top_k(2) > top_capacity(etr_bound, decode=threshold) > softmax + z_loss(0.01)"})
    all.emplace_back(more);
  return all;
}

// small_config with the router in every layer.
inline model::Config routed_config(const std::string& router, std::vector<model::LayerConfig> layers) {
  model::Config config = small_config(std::move(layers));
  for (model::LayerConfig& layer : config.layers) {
    layer.router = moe::parse_router(router).expression();
    layer.top_k = moe::parse_router(router).choices(layer.experts);
  }
  return config;
}

// The numbers of the routers as training starts with them, then moved by `steps` steps on this batch.
inline void settle(const model::Model& model, const ReferenceBatch& batch, int steps) {
  const model::Config& config = model.config();
  const FlatBatch flat(batch);
  base::Threads threads(2);
  model::TrainingActivations activations;
  Gradients gradients(config);
  const auto state = [&](int l) { return RandomModel::numbers(model.tensors().blocks[l].moe.state).row(0); };
  const auto has_state = [&](int l) { return model.tensors().blocks[l].moe.state.data != nullptr; };
  for (int l = 0; l < config.depth(); ++l)
    if (has_state(l)) model.router(l).initial_state(config.layers[l].experts, state(l));
  for (int step = 0; step < steps; ++step) {
    std::vector<std::vector<float>> sums;
    for (int l = 0; l < config.depth(); ++l)
      sums.emplace_back(static_cast<size_t>(model.router(l).sums_size(config.layers[l].experts)));
    model::TrainingBatch training = flat.training();
    training.sums = sums;
    forward_backward(model, training, {}, activations, gradients.tensors, threads);
    for (int l = 0; l < config.depth(); ++l)
      if (has_state(l)) model.router(l).update(config.layers[l].experts, sums[static_cast<size_t>(l)], state(l));
  }
}

}  // namespace choir::tests
