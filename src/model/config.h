// The shape of a transformer: what config.json says, layer by layer, in words that all families share.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "moe/published.h"
#include "nn/latent_attention.h"

namespace choir::model {

// A layer without routed experts is dense: it has the network of every token alone.
struct LayerConfig {
  int experts = 0;
  int top_k = 0;
  int expert_width = 0;            // F, of the widest expert
  std::optional<float> skip_beta;  // the second expert is skipped below this ratio of weights (published key: betas)
  std::vector<int> kept;           // after pruning: the expert's number in the original model; empty when unpruned
  std::string router = {};         // an expression in full; empty: the family's own
  int zero_experts = 0, copy_experts = 0, constant_experts = 0;  // behind the others, without weights of their size
  int novice_experts = 0;                                        // behind those
  std::vector<int> widths = {};                                  // [experts]; empty: all are expert_width wide
  int shared_width = 0;                                          // of the network of every token; 0: there is none
  bool shared_gate = false;                                      // it is weighed by the sigmoid of a product with x
  bool sees_all = false;                                         // the window of the attention does not hold here

  int width_of(int expert) const { return widths.empty() ? expert_width : widths[static_cast<size_t>(expert)]; }
  int64_t total_width() const;  // of all experts
  int idle() const { return zero_experts + copy_experts + constant_experts + novice_experts; }
  int routed() const { return experts + idle(); }  // what the router chooses from
  bool dense() const { return routed() == 0; }

  bool operator==(const LayerConfig&) const = default;
};

enum class QkNorm { kNone, kHead, kWhole };  // RMS norm of each head of q and k, or of all together

struct Config {
  std::string family;  // model_type
  int width = 0;       // D
  int vocab = 0;       // V
  // Of latent attention the shape of its naive form; `latent` is then not empty.
  kernels::AttentionShape attention;
  nn::LatentShape latent;
  bool qkv_bias = false, o_bias = false;  // latent attention has the first on its compressing maps alone
  bool sinks = false;
  QkNorm qk_norm = QkNorm::kNone;
  float clip_qkv = 0;  // 0: none
  kernels::RopeSpec rope;
  kernels::Pairs pairs = kernels::Pairs::kHalves;
  int max_positions = 0;
  double norm_epsilon = 0;
  bool layer_norm = false;      // with a bias, instead of RMS norm
  moe::PublishedRouter router;  // of layers without one of their own; its k and load are said elsewhere
  double load_weight = 0;       // of the balance loss of training (router_aux_loss_coef)
  bool expert_bias = false;
  kernels::Activation activation;
  float embedding_multiplier = 1, residual_multiplier = 1;  // of the embedding; of what each half of a block adds
  float logit_divisor = 1;
  struct {
    int rows = 128, cols = 128;
  } fp8_block;        // of numbers that share a scale, in files with F8_E4M3
  bool tied = false;  // the head is the embedding
  bool head_bias = false;
  std::vector<LayerConfig> layers;
  std::vector<int> end_tokens;         // eos_token_id
  std::vector<std::string> defaulted;  // keys that were missing and took their family's default
  std::vector<std::string> notes;      // where implementations of the family disagree, and what is done here

  int depth() const { return static_cast<int>(layers.size()); }
  bool is_latent() const { return latent.kv_rank > 0; }
  int rotary_width() const { return is_latent() ? latent.rotary : attention.head_width; }
  kernels::AttentionShape attention_of(int layer) const;  // with the window of the layer
  // Above this many tokens a sequence has other rotary frequencies, for all its positions; 0: never.
  int rope_switch() const;
};

// What one layer's router is, written out: "linear > top_k(2) > skip(0.4) > chosen + load(0.02)". A layer with a router
// of its own has that one, with skipping in place of its admission where there is a beta.
std::string router_expression(const Config& config, const LayerConfig& layer);

// The first layer with experts, or the first of all: what a line about a whole model is taken from.
const LayerConfig& typical_layer(const Config& config);

bool knows_family(const std::string& model_type);

// Throws Error (input) for an unknown family, a missing key, or a value that no sound model has.
Config parse_config(const nlohmann::json& json, const std::string& where);
Config read_config(const std::string& path);

// `base`, a complete config.json of the model, with what pruning and skipping change taken from `config`: the layers.
// Layers that differ are written as per-layer arrays under "choir", where the family has one number for all.
nlohmann::json config_json(const Config& config, const nlohmann::json& base);

// Total and used-per-token numbers of parameters.
struct ParameterCount {
  int64_t total = 0, active = 0;
};
ParameterCount count_parameters(const Config& config);

}  // namespace choir::model
