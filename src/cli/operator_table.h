// What the operators of a phase took, beside what the machine could have done in that time.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/profile_summary.h"
#include "runtime/machine.h"

namespace choir::cli {

// Everything is of one call of the phase: of a forward, a token or a training step.
struct OperatorRow {
  std::string name;
  double calls = 0, seconds = 0;
  double share = 0;                                    // of the phase's seconds
  double weight_bytes = 0, bytes = 0, operations = 0;  // base::Work; bytes with the weights, operations of both kinds
  double share_of_bandwidth = 0, share_of_peak = 0;    // 1: as fast as memory, or as arithmetic, allows
  double busy = 0;                                     // share of its threads' seconds spent in loops
};

struct OperatorTable {
  std::string phase;
  std::vector<OperatorRow> operators;
  OperatorRow outside;  // of every operator
  OperatorRow all;
};

OperatorTable table_of(const base::PhaseTotal& phase, const runtime::Ceilings& ceilings, int threads);

// The median of each number that was measured. All rounds must have the same operators.
OperatorTable median_of(std::span<const OperatorTable> rounds);

// Lines of text, each with its end.
std::string text_of(const OperatorTable& table);

// A list, `outside` last.
nlohmann::ordered_json json_of(const OperatorTable& table);

}  // namespace choir::cli
