#include "report/diagnosis.h"

#include <algorithm>
#include <cmath>

#include "report/checks.h"

namespace choir::report {

Column last_part(const Column& column) {
  const size_t tenth = static_cast<size_t>(std::ceil(kLastPart * static_cast<double>(column.size())));
  const size_t taken = std::min(column.size(), std::max(tenth, kLeastSteps));
  return {column.end() - static_cast<std::ptrdiff_t>(taken), column.end()};
}

std::vector<Finding> diagnose(const Run& run) {
  std::vector<Finding> findings;
  check_numbers(run, findings);
  check_leak(run, findings);
  if (run.steps.size() < kLeastSteps) {
    Check("length", findings)
        .note("only " + std::to_string(run.steps.size()) + " steps: the other checks need " +
              std::to_string(kLeastSteps));
    return findings;
  }
  for (const auto check : {check_divergence, check_constant_loss, check_constant_balance, check_collapse,
                           check_dead_experts, check_router_gradient, check_capacity, check_step_time})
    check(run, findings);
  return findings;
}

std::vector<Finding> diagnose(const std::string& directory) { return diagnose(read_run(directory)); }

std::string_view name_of(Severity severity) {
  constexpr std::string_view kNames[] = {"ok", "note", "warning", "fault"};
  return kNames[static_cast<int>(severity)];
}

}  // namespace choir::report
