// How many experts a model's routings ran, and how many they left out.
#pragma once

#include <span>
#include <vector>

#include "model/forward.h"

namespace choir::model {

// (token, choice) pairs of one layer: those that ran, and those whose expert was skipped or refused the token.
struct ExpertCounts {
  int64_t run = 0, skipped = 0;

  void add(const moe::Routing& routing);
  double skipped_share() const;  // 0 before the first
};

// The mean weight bytes that a token reads where so many experts ran: model::bytes_per_token() without what was
// skipped.
double bytes_per_token(const Model& model, std::span<const ExpertCounts> layers);

ExpertCounts sum_of(std::span<const ExpertCounts> layers);

// Counts into `layers` [L], which must outlive it.
Observer counting(std::vector<ExpertCounts>& layers);

}  // namespace choir::model
