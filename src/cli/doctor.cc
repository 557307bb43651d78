#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/threads.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "model/model.h"
#include "report/diagnosis.h"
#include "runtime/machine.h"

namespace choir::cli {
namespace {

namespace fs = std::filesystem;
using report::Finding;
using report::Severity;
using Json = nlohmann::ordered_json;

// A path that is too long is one that does not exist.
bool exists(const std::string& path) {
  std::error_code none;
  return fs::exists(path, none);
}

// A run that is not done holds checkpoint.safetensors, which is no model.
bool holds_weights(const std::string& path) {
  return exists(path + "/model.safetensors") || exists(path + "/model.safetensors.index.json");
}

Finding examine_model(const std::string& path) {
  try {
    const model::Model model(path, model::Panels::kStay);
    model.check_finite();
    return {Severity::kOk, "model", -1, "all tensors are there, and every weight is a finite number"};
  } catch (const base::Error& error) {
    if (error.fault != base::Fault::kInput) throw;
    return {Severity::kFault, "model", -1, error.what()};
  }
}

std::vector<Finding> examine(const std::string& path) {
  std::error_code none;
  if (!fs::is_directory(path, none))
    base::input_error("no such directory", path, "name a training run or a model, or nothing for the machine");
  std::vector<Finding> findings;
  const bool is_run = report::is_run(path);
  if (is_run) findings = report::diagnose(path);
  if (holds_weights(path) || (!is_run && exists(path + "/config.json"))) findings.push_back(examine_model(path));
  if (findings.empty())
    base::input_error("neither a run nor a model", path,
                      "a run has metrics.jsonl, a model config.json and safetensors");
  return findings;
}

std::string line(const Finding& f) {
  const std::string where = f.layer < 0 ? f.check : fmt::format("{}, layer {}", f.check, f.layer);
  return fmt::format("{:<8} {:<24} {}", report::name_of(f.severity), where, f.message);
}

Json json_of(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& f : findings) {
    Json entry{{"severity", report::name_of(f.severity)}, {"check", f.check}};
    if (f.layer >= 0) entry["layer"] = f.layer;
    entry["message"] = f.message;
    list.push_back(entry);
  }
  return list;
}

void show_machine(const runtime::Machine& machine, const Common& common) {
  base::Threads threads(common.threads, common.placement());
  const double peak = runtime::peak_gflops(threads);
  if (common.json)
    return print_json({{"cpu", machine.cpu},
                       {"processors", machine.processors},
                       {"kernels", machine.kernels},
                       {"threads", threads.count()},
                       {"peak_gflops", peak},
                       {"checks", Json::array()}});
  fmt::print("cpu        {}\nprocessors {}\nkernels    {}\npeak       {:.1f} GFLOP/s of multiply-adds on {} threads\n",
             machine.cpu, machine.processors, machine.kernels, peak, threads.count());
}

}  // namespace

void run(const Doctor& o, const Common& common) {
  const runtime::Machine machine = runtime::this_machine();
  if (o.path.empty()) return show_machine(machine, common);
  const std::vector<Finding> findings = examine(o.path);
  if (common.json)
    print_json({{"cpu", machine.cpu}, {"kernels", machine.kernels}, {"checks", json_of(findings)}});
  else
    for (const Finding& f : findings) fmt::print("{}\n", line(f));
  std::fflush(stdout);  // the findings before the line about them
  const auto is_fault = [](const Finding& f) { return f.severity == Severity::kFault; };
  if (const auto faults = std::count_if(findings.begin(), findings.end(), is_fault))
    base::input_error(fmt::format("{} {} found", faults, faults == 1 ? "fault" : "faults"), o.path,
                      "stdout says which, and what to do");
}

}  // namespace choir::cli
