// Every tensor of a model by its place, and its name on disk.
#pragma once

#include <cstdint>
#include <string>

#include "model/config.h"
#include "moe/layer.h"
#include "nn/attention_layer.h"
#include "nn/latent_attention.h"

namespace choir::model {

using tensor::Matrix;
using tensor::Weight;

// T is Weight (to compute with) or Matrix<float> (gradients). What a model does not have has no data.
template <class T>
struct BlockTensors {
  nn::AttentionTensors<T> attention;  // one of these two
  nn::LatentTensors<T> latent;
  T moe_norm{}, moe_norm_bias{};  // (1,D)
  moe::MoeTensors<T> moe;
};

template <class T>
struct ModelTensors {
  T embedding{};  // (V,D)
  std::vector<BlockTensors<T>> blocks;
  T norm{}, norm_bias{};  // (1,D)
  T head{};               // (V,D); the same numbers as the embedding where the model is tied
  T head_bias{};          // (1,V)
};

struct TensorInfo {
  std::string name;  // on disk
  int rows, cols;
  bool vector;  // stored as [cols]
  enum class Role { kWeight, kNorm, kGate, kState } role = Role::kWeight;
  float initial = 0, deviation = 0.02f;  // before training
  bool orthogonal = false;               // the same: rows at right angles
  // Of an expert or a network of every token, weight or bias; of an attention; of an expert without such weights.
  enum class Part { kOther, kGate, kUp, kDown, kAttentionOut, kIdle } part = Part::kOther;
  int layer = -1;   // of gates, experts and networks
  int expert = -1;  // its number
};

// Calls visitor(TensorInfo, T&) for every tensor that a file of this config holds, in the order of the forward. The one
// list of tensors: loading, saving, initialising and training all go through it. Defined for T = Weight, Matrix<float>.
template <class T, class Visitor>
void visit_tensors(const Config& config, ModelTensors<T>& tensors, const Visitor& visitor);

}  // namespace choir::model

#include "model/tensors_visit.h"
