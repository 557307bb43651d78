#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "report/page.h"

namespace choir::cli {

void run(const Report& o, const Common& common) {
  const auto existing = o.force ? base::Existing::kReplace : base::Existing::kRefuse;
  base::check_output(o.out, existing, base::Kind::kFile);
  const std::vector<report::Run> runs = report::read_runs(
      o.runs, [](const std::string& directory) { fmt::print(stderr, "{}: no step yet, passed over\n", directory); });
  const std::string page = report::page(runs);
  base::write_file(o.out, page, existing);
  if (!common.json) {
    fmt::print("{}: {} {}, {} KB\n", o.out, runs.size(), runs.size() == 1 ? "run" : "runs", (page.size() + 999) / 1000);
    return;
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const report::Run& run : runs)
    list.push_back({{"name", run.name},
                    {"directory", run.directory},
                    {"steps", run.steps.size()},
                    {"evaluations", run.evaluations.size()}});
  print_json({{"out", o.out}, {"bytes", page.size()}, {"runs", list}});
}

}  // namespace choir::cli
