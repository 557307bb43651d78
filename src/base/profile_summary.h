// A profile added up: which operators a phase of a computation consists of.
#pragma once

#include <string>
#include <vector>

#include "base/profile.h"

namespace choir::base {

// Seconds without those of spans inside it, so that sums over operators count nothing twice.
struct OperatorTotal {
  std::string name;  // behind those of the scopes around it, but for the phase and layers: "shared expert/down"
  int64_t calls = 0;
  double seconds = 0;
  double busy = 0;  // of all threads together, in loops
  Work work = {};
};

// All outermost spans of one name.
struct PhaseTotal {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
  std::vector<OperatorTotal> operators;  // in the order of their first call

  double uncovered() const;  // seconds outside every operator
};

// In the order of their first call. Outermost spans of which something was dropped are left out; with `warm` also the
// first of each name, where there are more.
std::vector<PhaseTotal> summarize(const Profile& profile, bool warm = false);

}  // namespace choir::base
