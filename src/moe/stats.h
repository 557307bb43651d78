// What routings did, counted. Reads the Routing and its Plan alone.
#pragma once

#include <optional>

#include "moe/routing.h"

namespace choir::moe {

struct ExpertStats {
  int64_t proposed = 0, kept = 0;  // pairs
  double affinity = 0;             // summed over its proposals: the score over its scale
  double gate = 0;                 // summed over its kept pairs: the weight of its answer
};

// Everything is a sum over the rows that were added: calls, micro-batches or parts of one call. A row that proposes
// nothing is no token.
struct RoutingStats {
  std::vector<ExpertStats> experts;  // [E]
  int64_t tokens = 0, slots = 0;     // slots: K a token
  int64_t unserved = 0;              // tokens that no expert took
  int64_t refused = 0;               // proposals that their expert did not take
  double kept_affinity = 0, refused_affinity = 0;
  int capacity = 0;                        // the largest of the calls, 0: no limit
  int64_t room = 0;                        // C E summed over the calls
  std::optional<double> log_min_capacity;  // the largest of the calls

  void add(const Routing& routing);
  void add_rows(const Routing& routing, int begin, int end);  // rows [begin, end), without the capacity

  int64_t proposed() const;
  int64_t kept() const;  // pairs that are computed
  double processed_share() const;
  double unserved_share() const;
  // Of the proposals, for a capacity hides who is wanted; of the computed pairs where every token proposes all experts.
  double max_over_mean_load() const;
  double load_entropy() const;  // nats
  int dead_experts() const;     // without a computed pair
  double tokens_per_expert() const;
  std::optional<double> capacity_factor() const;  // C E / (K N); none without a limit
  std::optional<double> mean_kept_affinity() const;
  std::optional<double> mean_refused_affinity() const;
  std::vector<std::optional<double>> mean_gates() const;  // [E] of its kept pairs; none without one

 private:
  int64_t ExpertStats::*wanted() const;  // the pairs that loads are made of
};

// Pairs whose expert lies on the node of its token: expert e of E lies on node floor(e nodes / E).
int64_t local_pairs(const Plan& plan, std::span<const int32_t> node, int nodes);

}  // namespace choir::moe
