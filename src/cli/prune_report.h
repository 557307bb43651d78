// What a pruning tells its user.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "cli/prune_repair.h"

namespace choir::cli {

// Experts that saw too few tokens, layers that lose a super expert or tokens whose experts were not captured; on
// stderr.
void warn(const Pruning& pruning, const Prune& options);

struct PruneReport {
  const Pruning& pruning;
  const Repaired& result;
  const std::optional<eval::Distance>& held_out;
  double seconds;
};

nlohmann::ordered_json json_of(const PruneReport& report, const Prune& options);
void print_text(const PruneReport& report, const Prune& options);

}  // namespace choir::cli
