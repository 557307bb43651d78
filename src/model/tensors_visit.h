// The body of visit_tensors (tensors.h).
#pragma once

#include "model/families/mixtral.h"
#include "model/tensors.h"

namespace choir::model {

// The gate's tensors as the layer's router asks for them, then the router's own numbers.
template <class T, class Visitor>
void visit_router(const Config& config, int l, moe::MoeTensors<T>& moe, const Visitor& visitor) {
  using Role = TensorInfo::Role;
  const LayerConfig& layer = config.layers[l];
  const std::string in = mixtral::block(l) + "block_sparse_moe.";
  const moe::Router router = moe::parse_router(router_expression(config, layer));
  const std::vector<moe::GateTensor> list = router.tensors(layer.routed(), config.width);
  moe.gate.resize(list.size());
  for (size_t i = 0; i < list.size(); ++i)
    visitor(TensorInfo{in + list[i].name, list[i].rows, list[i].cols, list[i].vector, Role::kGate, list[i].initial,
                       list[i].deviation, list[i].orthogonal},
            moe.gate[i]);
  if (const int size = router.state_size(layer.routed()); size > 0)
    visitor(TensorInfo{in + "router_state", 1, size, true, Role::kState}, moe.state);
}

// A constant expert's vector starts as in the published code, with deviation 1.
template <class T, class Visitor>
void visit_idle(const Config& config, int l, moe::IdleTensors<T>& idle, const Visitor& visitor) {
  using Role = TensorInfo::Role;
  const LayerConfig& layer = config.layers[l];
  const auto constants = static_cast<size_t>(layer.constant_experts);
  idle.zero = layer.zero_experts;
  idle.copy = layer.copy_experts;
  idle.v.resize(constants);
  idle.mix.resize(constants);
  for (size_t j = 0; j < constants; ++j) {
    const std::string in = mixtral::block(l) + "block_sparse_moe.constant." + std::to_string(j) + ".";
    visitor(TensorInfo{in + "v", 1, config.width, true, Role::kWeight, 0, 1}, idle.v[j]);
    visitor(TensorInfo{in + "mix.weight", 2, config.width, false}, idle.mix[j]);
  }
  idle.novice.resize(static_cast<size_t>(layer.novice_experts));
  for (size_t j = 0; j < idle.novice.size(); ++j)
    visitor(TensorInfo{mixtral::block(l) + "block_sparse_moe.novice." + std::to_string(j) + ".v", 1, config.width, true,
                       Role::kWeight, 0, 1},
            idle.novice[j]);
}

template <class T, class Visitor>
void visit_tensors(const Config& config, ModelTensors<T>& tensors, const Visitor& visitor) {
  const int d = config.width;
  const int q = config.attention.heads * config.attention.head_width;
  const int kv = config.attention.kv_heads * config.attention.head_width;
  tensors.blocks.resize(config.layers.size());
  visitor(TensorInfo{"model.embed_tokens.weight", config.vocab, d, false}, tensors.embedding);
  for (int l = 0; l < config.depth(); ++l) {
    BlockTensors<T>& block = tensors.blocks[l];
    const LayerConfig& layer = config.layers[l];
    const std::string in = mixtral::block(l), attention = in + "self_attn.";
    visitor(TensorInfo{in + "input_layernorm.weight", 1, d, true, TensorInfo::Role::kNorm}, block.attention.norm);
    visitor(TensorInfo{attention + "q_proj.weight", q, d, false}, block.attention.q);
    visitor(TensorInfo{attention + "k_proj.weight", kv, d, false}, block.attention.k);
    visitor(TensorInfo{attention + "v_proj.weight", kv, d, false}, block.attention.v);
    visitor(TensorInfo{attention + "o_proj.weight", d, q, false}, block.attention.o);
    visitor(TensorInfo{in + "post_attention_layernorm.weight", 1, d, true, TensorInfo::Role::kNorm}, block.moe_norm);
    visit_router(config, l, block.moe, visitor);
    for (auto* list : {&block.moe.w1, &block.moe.w2, &block.moe.w3}) list->resize(static_cast<size_t>(layer.experts));
    for (int e = 0; e < layer.experts; ++e) {
      const std::string expert = mixtral::expert(l, e);
      visitor(TensorInfo{expert + "w1.weight", layer.width_of(e), d, false}, block.moe.w1[e]);
      visitor(TensorInfo{expert + "w2.weight", d, layer.width_of(e), false}, block.moe.w2[e]);
      visitor(TensorInfo{expert + "w3.weight", layer.width_of(e), d, false}, block.moe.w3[e]);
    }
    visit_idle(config, l, block.moe.idle, visitor);
  }
  visitor(TensorInfo{"model.norm.weight", 1, d, true, TensorInfo::Role::kNorm}, tensors.norm);
  if (!config.tied) visitor(TensorInfo{"lm_head.weight", config.vocab, d, false}, tensors.head);
  if (config.tied) tensors.head = tensors.embedding;
}

}  // namespace choir::model
