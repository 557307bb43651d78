#include "moe/stats.h"

#include <algorithm>
#include <cmath>

#include "moe/balance/locality.h"

namespace choir::moe {
namespace {

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

std::optional<double> mean(double sum, int64_t count) {
  if (count == 0) return {};
  return sum / static_cast<double>(count);
}

}  // namespace

void RoutingStats::add(const Routing& routing) {
  const int64_t before = tokens;
  add_rows(routing, 0, routing.plan.tokens);
  if (tokens == before) return;
  capacity = std::max(capacity, routing.capacity);
  log_min_capacity = std::max(log_min_capacity, routing.log_min_capacity);
  room += static_cast<int64_t>(routing.capacity) * routing.plan.experts();
}

void RoutingStats::add_rows(const Routing& routing, int begin, int end) {
  const Plan& plan = routing.plan;
  experts.resize(static_cast<size_t>(plan.experts()));
  const Matrix<const float> z = routing.scores(plan.experts());
  for (int t = begin; t < end; ++t) {
    bool proposes = false, served = false;
    for (int s = 0; s < plan.choices; ++s) {
      const size_t i = static_cast<size_t>(t) * static_cast<size_t>(plan.choices) + static_cast<size_t>(s);
      const int32_t wanted = routing.proposed[i], got = routing.chosen[i];
      if (got >= 0) {
        ++experts[static_cast<size_t>(got)].kept;
        experts[static_cast<size_t>(got)].gate += static_cast<double>(plan.weight[static_cast<size_t>(plan.edge[i])]);
      }
      served = served || got >= 0;
      if (wanted < 0) continue;
      proposes = true;
      const double affinity = static_cast<double>(z[t][wanted]) / static_cast<double>(routing.scale);
      ++experts[static_cast<size_t>(wanted)].proposed;
      experts[static_cast<size_t>(wanted)].affinity += affinity;
      refused += got != wanted;
      (got == wanted ? kept_affinity : refused_affinity) += affinity;
    }
    if (!proposes) continue;
    ++tokens;
    slots += plan.choices;
    unserved += !served;
  }
}

int64_t RoutingStats::proposed() const {
  int64_t sum = 0;
  for (const ExpertStats& e : experts) sum += e.proposed;
  return sum;
}

int64_t RoutingStats::kept() const {
  int64_t sum = 0;
  for (const ExpertStats& e : experts) sum += e.kept;
  return sum;
}

double RoutingStats::processed_share() const { return share(kept(), proposed()); }

double RoutingStats::unserved_share() const { return share(unserved, tokens); }

// Who proposes all says nothing by it: then what the experts took tells them apart.
int64_t ExpertStats::*RoutingStats::wanted() const {
  const bool flat = proposed() == tokens * static_cast<int64_t>(experts.size());
  return flat ? &ExpertStats::kept : &ExpertStats::proposed;
}

double RoutingStats::max_over_mean_load() const {
  const auto pairs = wanted();
  int64_t most = 0, all = 0;
  for (const ExpertStats& e : experts) {
    most = std::max(most, e.*pairs);
    all += e.*pairs;
  }
  return share(most * static_cast<int64_t>(experts.size()), all);
}

int RoutingStats::dead_experts() const {
  return static_cast<int>(std::ranges::count_if(experts, [](const ExpertStats& e) { return e.kept == 0; }));
}

double RoutingStats::load_entropy() const {
  const auto pairs = wanted();
  int64_t all = 0;
  for (const ExpertStats& e : experts) all += e.*pairs;
  double entropy = 0;
  for (const ExpertStats& e : experts)
    if (const double f = share(e.*pairs, all); f > 0) entropy -= f * std::log(f);
  return entropy;
}

double RoutingStats::tokens_per_expert() const { return share(kept(), static_cast<int64_t>(experts.size())); }

std::optional<double> RoutingStats::capacity_factor() const {
  if (capacity == 0) return {};
  return share(room, slots);
}

std::optional<double> RoutingStats::mean_kept_affinity() const { return mean(kept_affinity, proposed() - refused); }

std::optional<double> RoutingStats::mean_refused_affinity() const { return mean(refused_affinity, refused); }

std::vector<std::optional<double>> RoutingStats::mean_gates() const {
  std::vector<std::optional<double>> gates;
  for (const ExpertStats& e : experts) gates.push_back(mean(e.gate, e.kept));
  return gates;
}

int64_t local_pairs(const Plan& plan, std::span<const int32_t> node, int nodes) {
  int64_t local = 0;
  for (int e = 0; e < plan.experts(); ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i)
      local += node[static_cast<size_t>(plan.token[i])] == node_of_expert(e, plan.experts(), nodes);
  return local;
}

}  // namespace choir::moe
