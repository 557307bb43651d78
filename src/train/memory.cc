#include "train/memory.h"

#include <fmt/format.h>

#include <algorithm>

namespace choir::train {
namespace {

using model::Config;
using model::LayerConfig;

constexpr int64_t kBytes = sizeof(float);

// Numbers for each token.
int64_t attention(const Config& c) {
  const int64_t d = c.width;
  if (c.is_latent()) {
    const nn::LatentShape& s = c.latent;
    const int64_t heads = s.heads;
    return d + 2 * heads * s.key() + 2 * s.q_rank + 2 * s.cached() + heads * (s.nope + s.value) + 2 * heads * s.value +
           heads + 3;
  }
  const kernels::AttentionShape& a = c.attention;
  const int64_t q = a.heads * a.head_width, k = a.kv_heads * a.head_width, v = a.kv_heads * a.values();
  const bool clips = c.clip_qkv > 0, refines = clips || c.qk_norm != model::QkNorm::kNone;
  const int64_t norms = c.qk_norm == model::QkNorm::kHead ? a.heads + a.kv_heads : 2;
  return d + q + k + v + a.heads * a.values() + a.heads + 1 + (refines ? q + k + norms : 0) + (clips ? v : 0);
}

int64_t attention_gradients(const Config& c) {
  if (c.is_latent()) {
    const nn::LatentShape& s = c.latent;
    return s.heads * (2 * s.key() + 2 * s.value) + c.width + s.cached() + s.q_rank;
  }
  const kernels::AttentionShape& a = c.attention;
  return a.heads * (a.head_width + a.values()) + a.kv_heads * (a.head_width + a.values()) +
         (c.residual_multiplier != 1 ? c.width : 0);
}

// Pairs of a token; a router that lets every expert choose says how many it means by top_k.
int64_t pairs(const model::Model& model, int l) {
  const LayerConfig& layer = model.config().layers[static_cast<size_t>(l)];
  const int choices = model.router(l).choices(layer.routed());
  return choices < layer.routed() ? choices : std::min(choices, layer.top_k);
}

// What stays of a layer: the stream before it, the scores and who computes what.
int64_t kept(const model::Model& model, int l) {
  const LayerConfig& layer = model.config().layers[static_cast<size_t>(l)];
  return model.config().width + layer.routed() + 7 * pairs(model, l);
}

int64_t experts(const model::Model& model, int l) {
  const LayerConfig& layer = model.config().layers[static_cast<size_t>(l)];
  const int64_t d = model.config().width, shared = layer.shared_width;
  return pairs(model, l) * (3 * layer.expert_width + d) + (shared > 0 ? 3 * shared + d + 1 : 0);
}

int64_t computed(const model::Model& model, int l) {
  return 2 * model.config().width + 1 + attention(model.config()) + experts(model, l);
}

// The widest gradient of hidden numbers.
int64_t hidden(const model::Model& model) {
  int64_t most = 0;
  for (int l = 0; l < model.config().depth(); ++l) {
    const LayerConfig& layer = model.config().layers[static_cast<size_t>(l)];
    most = std::max({most, pairs(model, l) * layer.expert_width, int64_t{layer.shared_width}});
  }
  return most;
}

}  // namespace

int64_t MemoryPlan::total() const {
  int64_t sum = 0;
  for (const auto& [name, bytes] : parts) sum += bytes;
  return sum;
}

std::string MemoryPlan::text() const {
  constexpr int64_t kMega = 1 << 20;
  std::string line;
  for (const auto& [name, bytes] : parts)
    line += fmt::format("{}{} {}", line.empty() ? "" : ", ", name, (bytes + kMega / 2) / kMega);
  return fmt::format("{} MB: {}", (total() + kMega / 2) / kMega, line);
}

ActivationSizes activation_sizes(const model::Model& model, int rows, model::Recompute recompute) {
  const Config& c = model.config();
  int64_t all = 0, most = 0;
  for (int l = 0; l < c.depth(); ++l) {
    all += kept(model, l) + computed(model, l);
    most = std::max(most, computed(model, l));
  }
  if (recompute == model::Recompute::kBlock) {
    all = most;
    for (int l = 0; l < c.depth(); ++l) all += kept(model, l);
  }
  const int64_t gradients = attention_gradients(c) + hidden(model) + 4 * c.width + 1;
  const int64_t branch = c.residual_multiplier != 1 ? c.width : 0;
  const int64_t at_once = std::min(rows, model::kHeadRows);
  return {kBytes * rows * (all + gradients + branch), kBytes * rows * (kept(model, 0) + most + 2 * c.width),
          kBytes * at_once * (c.vocab + 5)};
}

MemoryPlan plan_memory(const TrainConfig& config, const model::Model& model, int64_t data,
                       const model::Model* teacher) {
  const int rows = config.batch_size * config.sequence_length;
  const int64_t numbers = model::bytes_of(model);
  const ActivationSizes sizes = activation_sizes(model, rows, config.recompute);
  bool sweeps = false;  // the proposals of all micro-batches are counted first
  for (int l = 0; l < model.config().depth(); ++l) sweeps = sweeps || model.router(l).shares_matter();
  MemoryPlan plan{{{"parameters", numbers},
                   {"gradients", numbers},
                   {"moments", config.moments == tensor::DType::kBF16 ? numbers : 2 * numbers},
                   {"activations", sizes.activations + (sweeps && config.accumulate > 1 ? sizes.forward : 0)},
                   {"logits", sizes.logits}}};
  if (config.evaluation.every > 0) plan.parts.emplace_back("evaluation", sizes.forward + sizes.logits);
  if (teacher) {
    const ActivationSizes own = activation_sizes(*teacher, rows, model::Recompute::kNone);
    plan.parts.emplace_back("teacher", model::bytes_of(*teacher) + own.forward + own.logits);
  }
  plan.parts.emplace_back("data", data);
  return plan;
}

}  // namespace choir::train
