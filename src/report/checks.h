// The checks that diagnosis is made of, and what they share.
#pragma once

#include <string>
#include <vector>

#include "report/diagnosis.h"

namespace choir::report {

// Fewer steps say nothing about a run: medians of so few losses move by more than what is judged.
inline constexpr size_t kLeastSteps = 20;

// The part of a run that is judged: late enough to be over the start, long enough that one odd batch does not count.
inline constexpr double kLastPart = 0.1;

// The last tenth of a column, kLeastSteps entries at least where there are so many.
Column last_part(const Column& column);

// Gathers what one check finds.
class Check {
 public:
  Check(std::string name, std::vector<Finding>& findings)
      : name_(std::move(name)), findings_(findings), before_(findings.size()) {}

  void fault(int layer, std::string message) { add(Severity::kFault, layer, std::move(message)); }
  void warning(int layer, std::string message) { add(Severity::kWarning, layer, std::move(message)); }
  void note(std::string message) { add(Severity::kNote, -1, std::move(message)); }
  // Said only when nothing else was.
  void otherwise_ok(std::string message) {
    if (findings_.size() == before_) add(Severity::kOk, -1, std::move(message));
  }

 private:
  void add(Severity severity, int layer, std::string message) {
    findings_.push_back({severity, name_, layer, std::move(message)});
  }

  std::string name_;
  std::vector<Finding>& findings_;
  size_t before_;
};

// About numbers and losses (checks_loss.cc).
void check_numbers(const Run& run, std::vector<Finding>& findings);
void check_divergence(const Run& run, std::vector<Finding>& findings);
void check_constant_loss(const Run& run, std::vector<Finding>& findings);
void check_constant_balance(const Run& run, std::vector<Finding>& findings);
void check_leak(const Run& run, std::vector<Finding>& findings);
void check_step_time(const Run& run, std::vector<Finding>& findings);

// About routers and experts (checks_routing.cc).
void check_collapse(const Run& run, std::vector<Finding>& findings);
void check_dead_experts(const Run& run, std::vector<Finding>& findings);
void check_router_gradient(const Run& run, std::vector<Finding>& findings);
void check_capacity(const Run& run, std::vector<Finding>& findings);

}  // namespace choir::report
