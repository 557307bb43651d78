// What a step did, for people and files.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "moe/stats.h"

namespace choir::train {

// Of one layer's router and experts.
struct LayerReport {
  std::optional<int> capacity;                  // none: no limit
  std::optional<double> capacity_factor;        // C E / (K N)
  std::optional<double> log_min_capacity = {};  // moe::Routing::log_min_capacity, the largest of the micro-batches
  double processed_share = 0;                   // computed pairs of the proposed ones
  double dropped_token_share = 0;               // tokens that no expert took
  double max_over_mean_load = 0;                // most wanted expert against the mean, before admission
  int dead_experts = 0;
  double load_entropy = 0;  // nats, of the same shares
  double balance_loss = 0;
  std::optional<double> router_gradient_norm;  // of all gate tensors; none where there are none
  std::optional<double> affinity_kept, affinity_dropped;
  double tokens_per_expert = 0;
  std::vector<std::optional<double>> mean_gate = {};  // [E] weight of an expert's computed pairs; none without one
  std::optional<double> local_share;                  // computed pairs on the node of their token; none with one node
};

struct StepReport {
  int step = 0, steps = 0;
  double loss = 0;                          // cross-entropy of the step's tokens before the update, nats a token
  std::optional<double> distill_loss = {};  // T^2 KL(teacher || model) of the same tokens, likewise; with a teacher
  double balance_loss = 0;                  // summed over layers, weights included
  double gradient_norm = 0;                 // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;  // of the run so far
  double seconds = 0;  // of this step
  double tokens_per_second = 0;
  double share_of_peak = 0;        // arithmetic that was done over what the machine's multiply-add units can do
  double max_over_mean_load = 0;   // the worst layer
  double processed_share = 0;      // mean over layers
  double dropped_token_share = 0;  // mean over layers
  std::optional<double> local_share = {};
  int64_t peak_memory = 0;  // bytes of the process so far; 0 where the system does not say
  std::vector<LayerReport> layers = {};

  bool finite() const;  // losses and gradient
};

// What counting alone can tell: no losses, no gradient, no nodes.
LayerReport layer_report(const moe::RoutingStats& stats);
// The fields that are means or the worst of the layers.
void sum_up(StepReport& report);

// The most memory that the process has had, in bytes; 0 where the system does not say.
int64_t peak_memory();

}  // namespace choir::train
