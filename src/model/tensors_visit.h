// The body of visit_tensors (tensors.h).
#pragma once

#include "model/families/family.h"
#include "model/tensors.h"
#include "moe/router.h"

namespace choir::model {

// Walks through one block. A name is the prefix of the block, that of a part, and what a tensor is called there.
template <class T, class Visitor>
class BlockVisit {
 public:
  BlockVisit(const Config& config, int l, const Visitor& visitor)
      : config_(config),
        layer_(config.layers[static_cast<size_t>(l)]),
        names_(family_of(config.family, "model").names),
        in_("model.layers." + std::to_string(l) + "."),
        l_(l),
        visitor_(visitor) {}

  void block(BlockTensors<T>& block) const {
    if (config_.is_latent())
      latent(block.latent);
    else
      attention(block.attention);
    norm("post_attention_layernorm", config_.width, block.moe_norm, &block.moe_norm_bias);
    block.moe.activation = config_.activation;
    if (!layer_.dense()) router(block.moe);
    experts(block.moe);
    idle(block.moe.idle);
    if (layer_.shared_width > 0) shared(block.moe.shared);
  }

 private:
  using Role = TensorInfo::Role;
  using Part = TensorInfo::Part;

  void matrix(const std::string& name, int rows, int cols, T& to, Part part = Part::kOther) const {
    TensorInfo info{in_ + name + ".weight", rows, cols, false};
    info.part = part;
    info.layer = l_;
    visitor_(info, to);
  }

  void bias(const std::string& name, int size, T& to) const {
    visitor_(TensorInfo{in_ + name + ".bias", 1, size, true, Role::kWeight, 0, 0}, to);
  }

  // A bias that is null is one that these norms never have.
  void norm(const std::string& name, int size, T& scale, T* bias_of = nullptr) const {
    visitor_(TensorInfo{in_ + name + ".weight", 1, size, true, Role::kNorm}, scale);
    if (bias_of && config_.layer_norm) bias(name, size, *bias_of);
  }

  void attention(nn::AttentionTensors<T>& a) const {
    const auto& shape = config_.attention;
    const std::string at = "self_attn.";
    const int d = config_.width, q = shape.heads * shape.head_width, k = shape.kv_heads * shape.head_width,
              v = shape.kv_heads * shape.values(), o = shape.heads * shape.values();
    norm("input_layernorm", d, a.norm, &a.norm_bias);
    matrix(at + "q_proj", q, d, a.q);
    matrix(at + "k_proj", k, d, a.k);
    matrix(at + "v_proj", v, d, a.v);
    if (config_.qkv_bias) {
      bias(at + "q_proj", q, a.q_bias);
      bias(at + "k_proj", k, a.k_bias);
      bias(at + "v_proj", v, a.v_bias);
    }
    if (config_.qk_norm != QkNorm::kNone) {
      const bool whole = config_.qk_norm == QkNorm::kWhole;
      norm(at + "q_norm", whole ? q : shape.head_width, a.q_norm);
      norm(at + "k_norm", whole ? k : shape.head_width, a.k_norm);
    }
    if (config_.sinks) visitor_(TensorInfo{in_ + at + "sinks", 1, shape.heads, true}, a.sinks);
    matrix(at + "o_proj", d, o, a.o, Part::kAttentionOut);
    if (config_.o_bias) bias(at + "o_proj", d, a.o_bias);
  }

  void latent(nn::LatentTensors<T>& a) const {
    const nn::LatentShape& shape = config_.latent;
    const std::string at = "self_attn.";
    const int d = config_.width, q = shape.heads * shape.key();
    norm("input_layernorm", d, a.norm);
    if (shape.q_rank == 0) {
      matrix(at + "q_proj", q, d, a.q);
    } else {
      matrix(at + "q_a_proj", shape.q_rank, d, a.q_a);
      if (config_.qkv_bias) bias(at + "q_a_proj", shape.q_rank, a.q_a_bias);
      norm(at + "q_a_layernorm", shape.q_rank, a.q_a_norm);
      matrix(at + "q_b_proj", q, shape.q_rank, a.q_b);
    }
    matrix(at + "kv_a_proj_with_mqa", shape.cached(), d, a.kv_a);
    if (config_.qkv_bias) bias(at + "kv_a_proj_with_mqa", shape.cached(), a.kv_a_bias);
    norm(at + "kv_a_layernorm", shape.kv_rank, a.kv_a_norm);
    matrix(at + "kv_b_proj", shape.heads * (shape.nope + shape.value), shape.kv_rank, a.kv_b);
    matrix(at + "o_proj", d, shape.heads * shape.value, a.o, Part::kAttentionOut);
    if (config_.o_bias) bias(at + "o_proj", d, a.o_bias);
  }

  // The gate's tensors as the layer's router asks for them, then the router's own numbers.
  void router(moe::MoeTensors<T>& moe) const {
    const std::string in = in_ + names_.mixture;
    const moe::Router router = moe::parse_router(router_expression(config_, layer_));
    const std::vector<moe::GateTensor> list = router.tensors(layer_.routed(), config_.width);
    moe.gate.resize(list.size());
    for (size_t i = 0; i < list.size(); ++i) {
      const bool own = list[i].name.starts_with("gate.");  // the family may call it otherwise
      const std::string name = own ? names_.router + list[i].name.substr(4) : list[i].name;
      TensorInfo info{in + name,   list[i].rows,    list[i].cols,      list[i].vector,
                      Role::kGate, list[i].initial, list[i].deviation, list[i].orthogonal};
      info.layer = l_;
      visitor_(info, moe.gate[i]);
    }
    if (const int size = router.state_size(layer_.routed()); size > 0) {
      TensorInfo info{in + names_.state, 1, size, true, Role::kState};
      info.layer = l_;
      visitor_(info, moe.state);
    }
  }

  void experts(moe::MoeTensors<T>& moe) const {
    const auto count = static_cast<size_t>(layer_.experts);
    for (auto* list : {&moe.w1, &moe.w2, &moe.w3}) list->resize(count);
    for (auto* list : {&moe.b1, &moe.b2, &moe.b3}) list->resize(config_.expert_bias ? count : 0);
    const int d = config_.width;
    for (size_t e = 0; e < count; ++e) {
      const int width = layer_.width_of(static_cast<int>(e));
      expert_part(e, names_.gate, {width, d}, Part::kGate, moe.w1, moe.b1);
      expert_part(e, names_.down, {d, width}, Part::kDown, moe.w2, moe.b2);
      expert_part(e, names_.up, {width, d}, Part::kUp, moe.w3, moe.b3);
    }
  }

  void expert_part(size_t e, const std::string& name, std::pair<int, int> shape, Part part, std::vector<T>& weights,
                   std::vector<T>& biases) const {
    const std::string in = in_ + names_.mixture + "experts." + std::to_string(e) + "." + name;
    TensorInfo info{in + ".weight", shape.first, shape.second, false};
    info.part = part;
    info.layer = l_;
    info.expert = static_cast<int>(e);
    visitor_(info, weights[e]);
    if (biases.empty()) return;
    info.name = in + ".bias";
    info.rows = 1;
    info.cols = shape.first;
    info.vector = true;
    info.deviation = 0;
    visitor_(info, biases[e]);
  }

  void shared(moe::FeedForwardTensors<T>& shared) const {
    const std::string at = std::string(names_.mixture) + (layer_.dense() ? "" : names_.shared);
    const int d = config_.width, f = layer_.shared_width;
    matrix(at + "gate_proj", f, d, shared.w1, Part::kGate);
    matrix(at + "down_proj", d, f, shared.w2, Part::kDown);
    matrix(at + "up_proj", f, d, shared.w3, Part::kUp);
    if (layer_.shared_gate) matrix(std::string(names_.mixture) + "shared_expert_gate", 1, d, shared.gate);
  }

  void idle(moe::IdleTensors<T>& idle) const {
    const auto constants = static_cast<size_t>(layer_.constant_experts);
    const std::string mixture = names_.mixture;
    idle.zero = layer_.zero_experts;
    idle.copy = layer_.copy_experts;
    idle.v.resize(constants);
    idle.mix.resize(constants);
    for (size_t j = 0; j < constants; ++j) {
      const std::string at = mixture + "constant." + std::to_string(j) + ".";
      answer(at + "v", idle.v[j]);
      matrix(at + "mix", 2, config_.width, idle.mix[j], Part::kIdle);
    }
    idle.novice.resize(static_cast<size_t>(layer_.novice_experts));
    for (size_t j = 0; j < idle.novice.size(); ++j)
      answer(mixture + "novice." + std::to_string(j) + ".v", idle.novice[j]);
  }

  // What an idle expert says of every token. It starts as in the published code, with deviation 1.
  void answer(const std::string& name, T& v) const {
    TensorInfo info{in_ + name, 1, config_.width, true, Role::kWeight, 0, 1};
    info.part = Part::kIdle;
    visitor_(info, v);
  }

  const Config& config_;
  const LayerConfig& layer_;
  const Names& names_;
  std::string in_;
  int l_;
  const Visitor& visitor_;
};

template <class T, class Visitor>
void visit_tensors(const Config& config, ModelTensors<T>& tensors, const Visitor& visitor) {
  using Role = TensorInfo::Role;
  const int d = config.width;
  tensors.blocks.resize(config.layers.size());
  visitor(TensorInfo{"model.embed_tokens.weight", config.vocab, d, false}, tensors.embedding);
  for (int l = 0; l < config.depth(); ++l)
    BlockVisit<T, Visitor>(config, l, visitor).block(tensors.blocks[static_cast<size_t>(l)]);
  visitor(TensorInfo{"model.norm.weight", 1, d, true, Role::kNorm}, tensors.norm);
  if (config.layer_norm) visitor(TensorInfo{"model.norm.bias", 1, d, true, Role::kWeight, 0, 0}, tensors.norm_bias);
  if (!config.tied) visitor(TensorInfo{"lm_head.weight", config.vocab, d, false}, tensors.head);
  if (config.tied) tensors.head = tensors.embedding;
  if (config.head_bias)
    visitor(TensorInfo{"lm_head.bias", 1, config.vocab, true, Role::kWeight, 0, 0}, tensors.head_bias);
}

}  // namespace choir::model
