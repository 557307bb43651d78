// A second pass over the calibration tokens: what each layer's experts receive, and a layer run again on it.
#pragma once

#include "compress/calibration.h"

namespace choir::compress {

using tensor::Matrix;

// What one layer's mixture is given, of all tokens, batch after batch.
struct LayerInputs {
  Matrix<const float> x;           // (N,D)
  std::span<const double> stream;  // [N] |h|^2 of the residual stream that its output is added to

  operator Matrix<const float>() const { return x; }  // for whoever asks for nothing else
};

// What it is given is valid during the call.
using TakeInputs = std::function<void(int layer, const LayerInputs& inputs)>;

// Layer after layer. Memory holds the residual streams of all tokens and one layer's inputs.
void layer_inputs(const Model& model, std::span<const CalibrationBatch> batches, const TakeInputs& take,
                  Threads& threads, const Progress& progress = {});

// z (N,D) = the mixture of layer l of x (N,D), in pieces of some hundred tokens.
void run_layer(const Model& model, int l, Matrix<const float> x, Matrix<float> z, Threads& threads);

// What a layer is to give: its inputs and the full layer's outputs.
struct LayerTarget {
  Matrix<const float> x, z;          // (N,D)
  std::span<const double> weight{};  // [N] of each token's squared error; empty: all ones

  double weight_of(int token) const { return weight.empty() ? 1 : weight[static_cast<size_t>(token)]; }
};

// sum over tokens of weight_t |z_t - z'_t|^2, z' what layer l of the model gives.
double layer_loss(const Model& model, int l, const LayerTarget& target, Threads& threads);

}  // namespace choir::compress
