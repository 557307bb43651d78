#include "model/expert_counts.h"

#include <algorithm>

namespace choir::model {

void ExpertCounts::add(const moe::Routing& routing) {
  const int64_t edges = routing.plan.edges();
  run += edges;
  skipped += std::ranges::count_if(routing.proposed, [](int32_t e) { return e >= 0; }) - edges;
}

double ExpertCounts::skipped_share() const {
  const auto all = static_cast<double>(run + skipped);
  return all > 0 ? static_cast<double>(skipped) / all : 0;
}

double bytes_per_token(const Model& model, std::span<const ExpertCounts> layers) {
  auto bytes = static_cast<double>(bytes_per_token(model));
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto& moe = model.tensors().blocks[l].moe;
    const LayerConfig& layer = model.config().layers[l];
    if (layer.experts == 0) continue;
    int64_t experts = 0;
    for (const auto* list : {&moe.w1, &moe.w2, &moe.w3})
      for (const Weight& w : *list) experts += static_cast<int64_t>(w.bytes());
    const double used = static_cast<double>(std::min(layer.top_k, layer.experts)) / layer.experts;
    bytes -= layers[l].skipped_share() * used * static_cast<double>(experts);
  }
  return bytes;
}

ExpertCounts sum_of(std::span<const ExpertCounts> layers) {
  ExpertCounts sum;
  for (const ExpertCounts& layer : layers) {
    sum.run += layer.run;
    sum.skipped += layer.skipped;
  }
  return sum;
}

Observer counting(std::vector<ExpertCounts>& layers) {
  return [&layers](int layer, const moe::Routing& routing) { layers[static_cast<size_t>(layer)].add(routing); };
}

}  // namespace choir::model
