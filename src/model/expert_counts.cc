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
