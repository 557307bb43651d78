// What is wrong with a training run, judged by what it wrote down.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "report/run.h"

namespace choir::report {

enum class Severity { kOk, kNote, kWarning, kFault };  // a fault: the run is not worth going on with as it is

struct Finding {
  Severity severity;
  std::string check;
  int layer;            // -1: the whole run
  std::string message;  // what was seen, with figures, and what to do
};

// The checks in a fixed order; each has at least one finding, if only that all is well. Mostly about the last tenth of
// the steps. The first throws Error (input) as read_run does.
std::vector<Finding> diagnose(const std::string& directory);
std::vector<Finding> diagnose(const Run& run);

std::string_view name_of(Severity severity);  // "ok", "note", "warning", "fault"

}  // namespace choir::report
