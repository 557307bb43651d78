// The shape of a transformer: what config.json says, layer by layer.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention.h"

namespace choir::model {

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

  int width_of(int expert) const { return widths.empty() ? expert_width : widths[static_cast<size_t>(expert)]; }
  int64_t total_width() const;  // of all experts
  int idle() const { return zero_experts + copy_experts + constant_experts + novice_experts; }
  int routed() const { return experts + idle(); }  // what the router chooses from

  bool operator==(const LayerConfig&) const = default;
};

struct Config {
  std::string family;  // model_type
  int width = 0;       // D
  int vocab = 0;       // V
  kernels::AttentionShape attention;
  int max_positions = 0;
  double rope_theta = 0;
  double norm_epsilon = 0;
  bool tied = false;       // the head is the embedding
  double load_weight = 0;  // router_aux_loss_coef
  std::vector<LayerConfig> layers;
  std::vector<int> end_tokens;         // eos_token_id
  std::vector<std::string> defaulted;  // keys that were missing and took their family's default

  int depth() const { return static_cast<int>(layers.size()); }
};

// What one layer's router is, written out: "linear > top_k(2) > skip(0.4) > chosen + load(0.02)". A layer with a router
// of its own has that one, with skipping in place of its admission where there is a beta.
std::string router_expression(const Config& config, const LayerConfig& layer);

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
