// What a model's routers do with a text: the numbers behind a heat map.
#pragma once

#include "eval/windows.h"
#include "model/expert_counts.h"

namespace choir::eval {

struct LayerRouting {
  std::vector<int64_t> load;        // [E] tokens that each expert computed
  std::vector<double> mean_weight;  // [E] of the expert's output over those tokens; 0 for an idle expert
  model::ExpertCounts counts;
};

struct RoutingReport {
  int64_t tokens = 0;
  std::vector<LayerRouting> layers;
};

// Counts every token of every document once, in disjoint windows of cut.context. Throws Error (input) without a token.
RoutingReport routing_report(const Model& model, std::span<const Document> documents, const Cut& cut,
                             base::Threads& threads);

}  // namespace choir::eval
