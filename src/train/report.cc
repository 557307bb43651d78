#include "train/report.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

namespace choir::train {

LayerReport layer_report(const moe::RoutingStats& stats) {
  LayerReport layer;
  if (stats.capacity > 0) layer.capacity = stats.capacity;
  layer.capacity_factor = stats.capacity_factor();
  layer.log_min_capacity = stats.log_min_capacity;
  layer.processed_share = stats.processed_share();
  layer.dropped_token_share = stats.unserved_share();
  layer.max_over_mean_load = stats.max_over_mean_load();
  layer.dead_experts = stats.dead_experts();
  layer.load_entropy = stats.load_entropy();
  layer.affinity_kept = stats.mean_kept_affinity();
  layer.affinity_dropped = stats.mean_refused_affinity();
  layer.tokens_per_expert = stats.tokens_per_expert();
  layer.mean_gate = stats.mean_gates();
  return layer;
}

bool StepReport::finite() const {
  return std::isfinite(loss) && std::isfinite(distill_loss.value_or(0)) && std::isfinite(gradient_norm);
}

void sum_up(StepReport& report) {
  const double part = 1.0 / static_cast<double>(std::max<size_t>(1, report.layers.size()));
  for (const LayerReport& layer : report.layers) {
    report.max_over_mean_load = std::max(report.max_over_mean_load, layer.max_over_mean_load);
    report.processed_share += part * layer.processed_share;
    report.dropped_token_share += part * layer.dropped_token_share;
    if (layer.local_share) report.local_share = report.local_share.value_or(0) + part * *layer.local_share;
  }
}

// The line "VmHWM:   123 kB" of Linux.
int64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    int64_t kilobytes = 0;
    if (line.starts_with("VmHWM:") && (std::istringstream(line.substr(6)) >> kilobytes)) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace choir::train
