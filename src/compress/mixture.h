// One layer's mixture taken out of a model to be changed, and put into another one.
#pragma once

#include <span>

#include "model/model.h"

namespace choir::compress {

using model::Model;

// The tensors look into the model that they came from, or into `owned`.
struct Mixture {
  model::LayerConfig config;
  moe::MoeTensors<tensor::Weight> tensors;
  model::Model::Owned owned;

  Mixture(const Model& model, int layer)
      : config(model.config().layers[static_cast<size_t>(layer)]),
        tensors(model.tensors().blocks[static_cast<size_t>(layer)].moe) {}

  // `like` with these numbers, row by row, rounded to its format.
  tensor::Weight renewed(const tensor::Weight& like, std::span<const float> numbers);
  // The same in another shape. What is neither F32 nor F16 becomes BF16: packed blocks are not packed again.
  tensor::Weight made(tensor::DType type, tensor::Matrix<const float> numbers);

  // The experts of these numbers alone, in this order; neither the gate nor the config.
  void keep_experts(const std::vector<int>& kept);
  // The gate's rows and the router's numbers in this order.
  void order_gate(const std::vector<int>& order);

  Model in(const Model& model, int layer) const { return model.with_mixture(layer, config, tensors, owned); }
};

// The numbers of a weight as floats, row by row.
std::vector<float> numbers_of(const tensor::Weight& weight);

}  // namespace choir::compress
