#include "eval/routing_report.h"

#include <algorithm>

namespace choir::eval {
namespace {

// Sums the weights; the mean is taken at the end.
void count(const moe::Routing& routing, LayerRouting& layer) {
  const moe::Plan& plan = routing.plan;
  layer.counts.add(routing);
  for (int e = 0; e < plan.experts(); ++e) {
    layer.load[e] += plan.offset[e + 1] - plan.offset[e];
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i)
      layer.mean_weight[e] += static_cast<double>(plan.weight[i]);
  }
}

}  // namespace

RoutingReport routing_report(const Model& model, std::span<const Document> documents, const Cut& cut,
                             base::Threads& threads) {
  const std::vector<Window> windows = cut_inputs(model, documents, cut);
  RoutingReport report;
  for (const model::LayerConfig& layer : model.config().layers) {
    const auto experts = static_cast<size_t>(layer.routed());
    report.layers.push_back({std::vector<int64_t>(experts), std::vector<double>(experts), {}});
  }
  WindowRunner runner(model, documents, threads);
  for (std::span<const Window> rest = windows; !rest.empty();) {
    const auto batch = runner.next_batch(rest);
    rest = rest.subspan(batch.size());
    runner.observe(batch, [&](int l, const moe::Routing& routing) { count(routing, report.layers[l]); });
  }
  for (const Window& w : windows) report.tokens += w.count;
  for (LayerRouting& layer : report.layers)
    for (size_t e = 0; e < layer.load.size(); ++e)
      layer.mean_weight[e] /= static_cast<double>(std::max<int64_t>(1, layer.load[e]));
  return report;
}

}  // namespace choir::eval
