// What a model's routers do with a text: the numbers behind a heat map.
#pragma once

#include "eval/windows.h"

namespace choir::eval {

struct LayerRouting {
  std::vector<int64_t> load;        // [E] tokens that each expert computed
  std::vector<double> mean_weight;  // [E] of the expert's output over those tokens; 0 for an idle expert
  int64_t choices = 0;              // (token, expert) pairs the router proposed
  int64_t edges = 0;                // those that were computed

  double skipped_share() const;  // 1 - edges / choices
};

struct RoutingReport {
  int64_t tokens = 0;
  std::vector<LayerRouting> layers;
};

// Counts every token of every document once, in disjoint windows of cut.context. Throws Error (input) without a token.
RoutingReport routing_report(const Model& model, std::span<const Document> documents, const Cut& cut,
                             base::Threads& threads);

}  // namespace choir::eval
