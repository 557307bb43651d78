#include "compress/fingerprint.h"

#include <array>
#include <bit>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "model/tensors.h"

namespace choir::compress {
namespace {

// splitmix64's end (Steele et al., 2014): one to one, so that what differed before differs after.
uint64_t mix(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9;
  v = (v ^ (v >> 27)) * 0x94d049bb133111eb;
  return v ^ (v >> 31);
}

// One to one in the lane and in the word.
uint64_t step(uint64_t lane, uint64_t word) { return std::rotl((lane ^ word) * 0x9e3779b97f4a7c15, 29); }

// The layer's router with every chosen expert at work.
std::string router_of(const model::Config& config, model::LayerConfig layer) {
  layer.skip_beta.reset();
  const std::string own = model::router_expression(config, layer);
  return moe::parse_router(own).subset_rule() ? moe::with_admission(own, "all") : own;
}

void add_layer(const model::Config& config, size_t l, Hash& hash) {
  const model::LayerConfig& layer = config.layers[l];
  for (const int number :
       {layer.experts, layer.top_k, layer.expert_width, layer.zero_experts, layer.copy_experts, layer.constant_experts})
    hash.add(static_cast<uint64_t>(number));
  hash.add(router_of(config, layer));
}

// What only some families have.
std::vector<double> traits_of(const model::Config& config) {
  const auto flag = [](bool v) { return v ? 1.0 : 0.0; };
  const kernels::RopeSpec& rope = config.rope;
  std::vector<double> traits{static_cast<double>(rope.kind),
                             rope.factor,
                             static_cast<double>(rope.original_length),
                             rope.attention_factor,
                             rope.beta_fast,
                             rope.beta_slow,
                             rope.mscale,
                             rope.mscale_all_dim,
                             flag(rope.truncate),
                             rope.low_freq_factor,
                             rope.high_freq_factor,
                             rope.short_mscale,
                             rope.long_mscale,
                             static_cast<double>(config.pairs),
                             config.attention.scale,
                             config.latent.scale,
                             static_cast<double>(config.qk_norm),
                             config.clip_qkv,
                             flag(config.layer_norm),
                             config.activation.limit,
                             config.embedding_multiplier,
                             config.residual_multiplier,
                             config.logit_divisor};
  traits.insert(traits.end(), rope.short_factor.begin(), rope.short_factor.end());
  traits.insert(traits.end(), rope.long_factor.begin(), rope.long_factor.end());
  for (const model::LayerConfig& layer : config.layers)
    for (const double v : {static_cast<double>(layer.shared_width), flag(layer.shared_gate), flag(layer.sees_all)})
      traits.push_back(v);
  return traits;
}

void add_config(const model::Config& config, Hash& hash) {
  hash.add(config.family);
  const kernels::AttentionShape& a = config.attention;
  for (const int number : {config.width, config.vocab, a.heads, a.kv_heads, a.head_width, a.window,
                           config.max_positions, config.tied ? 1 : 0, config.depth()})
    hash.add(static_cast<uint64_t>(number));
  for (const double number : {config.rope.theta, config.norm_epsilon}) hash.add(std::bit_cast<uint64_t>(number));
  for (size_t l = 0; l < config.layers.size(); ++l) add_layer(config, l, hash);
  model::Config plain;  // of families that have none of it nothing is added
  plain.layers.resize(config.layers.size());
  if (const auto traits = traits_of(config); traits != traits_of(plain))
    for (const double trait : traits) hash.add(std::bit_cast<uint64_t>(trait));
}

struct Named {
  model::TensorInfo info;
  tensor::Weight weight;
};

uint64_t hash_of(const Named& tensor) {
  Hash hash;
  hash.add(tensor.info.name);
  for (const int number : {static_cast<int>(tensor.weight.type), tensor.info.rows, tensor.info.cols})
    hash.add(static_cast<uint64_t>(number));
  hash.add({static_cast<const std::byte*>(tensor.weight.data), tensor.weight.bytes()});
  return hash.value();
}

}  // namespace

void Hash::add(uint64_t number) { state_ = mix(state_ ^ number) + 1; }

void Hash::add(const std::string& text) { add(std::as_bytes(std::span(text.data(), text.size()))); }

void Hash::add(std::span<const std::byte> bytes) {
  constexpr size_t kLanes = 8, kBlock = kLanes * sizeof(uint64_t);
  add(uint64_t{bytes.size()});
  std::array<uint64_t, kLanes> lane{1, 2, 3, 4, 5, 6, 7, 8}, word{};
  const auto take = [&](size_t at, size_t count) {
    std::memcpy(word.data(), bytes.data() + at, count);
    for (size_t i = 0; i < kLanes; ++i) lane[i] = step(lane[i], word[i]);
  };
  size_t at = 0;
  for (; at + kBlock <= bytes.size(); at += kBlock) take(at, kBlock);
  word = {};
  if (at < bytes.size()) take(at, bytes.size() - at);
  for (const uint64_t value : lane) add(value);
}

std::string Hash::text() const {
  char text[17];
  std::snprintf(text, sizeof text, "%016" PRIx64, state_);
  return text;
}

std::string fingerprint(const Model& model, Threads& threads) {
  Hash hash;
  add_config(model.config(), hash);
  std::vector<Named> tensors;
  model::ModelTensors<tensor::Weight> views = model.tensors();
  model::visit_tensors(model.config(), views, [&](const model::TensorInfo& info, const tensor::Weight& weight) {
    tensors.push_back({info, weight});
  });
  std::vector<uint64_t> each(tensors.size());
  threads.for_each(static_cast<int>(tensors.size()),
                   [&](int i) { each[static_cast<size_t>(i)] = hash_of(tensors[static_cast<size_t>(i)]); });
  for (const uint64_t value : each) hash.add(value);
  return hash.text();
}

std::string calibration_hash(std::span<const CalibrationBatch> batches) {
  Hash hash;
  for (const CalibrationBatch& batch : batches) {
    hash.add(static_cast<uint64_t>(batch.sequences));
    hash.add(static_cast<uint64_t>(batch.length));
    hash.add(std::as_bytes(std::span(batch.ids)));
  }
  return hash.text();
}

}  // namespace choir::compress
