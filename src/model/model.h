// A model ready to compute: its config, its tensors, its routers.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/atomic_output.h"
#include "base/threads.h"
#include "model/load.h"

namespace choir::model {

using base::Threads;

// Immutable after loading; threads may share it. Large tensors stay in the mapped file; norms and whatever the file
// stores unaligned are copied.
class Model {
 public:
  using Bytes = model::Bytes;
  using Owned = model::Owned;

  // Loads a directory, its config.json and safetensors, or a GGUF file. Every tensor must be there in the right shape,
  // and no other. Throws Error (input) naming the tensor. Of a packed directory kStay leaves the weights in panels
  // where they lie; kToRows unpacks all of it, into memory.
  explicit Model(const std::string& path, Panels panels = Panels::kToRows);

  // Wraps tensors that somebody else owns and may change between calls: the trainer's parameters.
  Model(Config config, ModelTensors<Weight> tensors);

  // The same model with some experts, another skipping or both: `config` differs in its layers, and keep[l] lists the
  // experts of layer l that stay, ascending. Shares the tensors.
  Model with_layers(const Config& config, const std::vector<std::vector<int>>& keep) const;

  // The same model with another mixture in layer l: `layer` describes `moe`, whose tensors look into this model's
  // memory or into `owned`. Throws Error (input) when a tensor has not the shape that `layer` asks for.
  Model with_mixture(int l, const LayerConfig& layer, moe::MoeTensors<Weight> moe, const Owned& owned) const;

  // The same model with another router in every layer, over the gate it has: how an admission by affinity comes to a
  // model that was trained without one. Throws Error (input) when the router asks for other tensors.
  Model with_router(const std::string& expression) const;

  // The same model with skip or all in place of every layer's skip or all (moe::with_admission): what a request asks
  // for at run time. Shares the tensors, and the routers' own numbers but for those of the admission, which begin anew.
  // Throws Error (usage) where a layer cannot take it.
  Model with_admission(const std::string& admission) const;

  // The same model with the weights of its linear maps in panels, which products read fastest (kernels/packed_gemm.h):
  // as many bytes again, in memory; the pages of the file that held them are given back. Weights in blocks are then
  // multiplied with activations rounded to bytes, others give the same bits as before. What wants rows is refused by
  // CHECK: training, saving, calibration.
  Model packed(Threads& threads) const;
  // Has the bits of packed() from the first token on, with the weights as they lie: nothing is copied, one token takes
  // about twice the time.
  Model packed_in_passing() const;

  const Config& config() const { return config_; }
  const ModelTensors<Weight>& tensors() const { return tensors_; }
  const moe::Router& router(int layer) const { return routers_[static_cast<size_t>(layer)]; }
  // kernels::rope_table for positions(). Where config().rope_switch() is not 0, for texts up to that long and then, in
  // as many rows again, for longer ones.
  Matrix<const float> rope() const;
  int positions() const;  // the longest sequence it can be used for, in tokens

  // Throws Error (input) naming the first tensor that holds a NaN or an infinity. Reads every weight; of a packed model
  // its files again.
  void check_finite() const;

  // For whoever got a result that is not finite: throws Error (input) naming the damaged tensor, or saying that the
  // sound weights overflow on this input.
  [[noreturn]] void refuse_result(const std::string& what) const;

  // The same model as save() can write it, for whoever begins long work whose end is that: MXFP4 becomes BF16, which
  // holds its numbers. Throws Error (input) that names a tensor of other blocks.
  Model savable() const;
  // Writes config.json and model.safetensors into an existing directory. `base` is the config.json to start from.
  void save(const std::string& directory, const nlohmann::json& base) const;
  // What model.safetensors then takes, to the byte.
  int64_t file_bytes() const;

 private:
  void pack_together(std::span<Weight* const> weights, Threads& threads);
  void drop_copies();
  Weight rows_of(const Weight& gate, const std::vector<int>& kept);
  Weight columns_of(const Weight& row, const std::vector<int>& kept);
  Weight renewed_state(int l, const std::string& expression);
  void finish();
  void check_layer(size_t l) const;
  void make_rope();

  std::string where_ = "model";  // its directory, for messages
  bool packed_ = false;
  Config config_;
  ModelTensors<Weight> tensors_;
  std::vector<moe::Router> routers_;
  // Shared because the models that with_layers makes look into the same memory and may outlive this one.
  std::shared_ptr<const io::TensorDirectory> files_;
  Owned copies_;
  std::shared_ptr<const tensor::Buffer<float>> rope_;
};

// The linear weight bytes of the file that one token reads: everything but the embedding table and idle experts.
int64_t bytes_per_token(const Model& model);
int64_t bytes_of(const Model& model);

}  // namespace choir::model
