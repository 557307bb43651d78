// Any text is the metrics and evaluations of a run that can be judged and shown, or an input error. Its first line is
// what run.json and config.json say as well.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/json.h"
#include "report/diagnosis.h"
#include "report/page.h"

namespace {

using namespace choir;

// One directory for all inputs of this process.
const std::string& directory() {
  static const std::string path =
      (std::filesystem::temp_directory_path() / "fuzz_run.").string() + std::to_string(::getpid());
  static const struct Made {
    Made() { std::filesystem::create_directories(path); }
    ~Made() { std::filesystem::remove_all(path); }
  } made;
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto& [name, part] : {std::pair{"/metrics.jsonl", text}, std::pair{"/evaluations.jsonl", text},
                                   std::pair{"/run.json", text.substr(0, text.find('\n'))},
                                   std::pair{"/config.json", text.substr(0, text.find('\n'))}}) {
    std::filesystem::remove(directory() + name);  // a file that is written anew waits for the disk, a new one does not
    std::ofstream(directory() + name, std::ios::binary) << part;
  }
  try {
    const report::Run run = report::read_run(directory());
    CHOIR_CHECK(run.steps.size() > 0 && !report::diagnose(run).empty(), "findings");
    const std::string shown = report::page_data({run});
    CHOIR_CHECK(shown.find('<') == std::string::npos, shown);
    (void)io::parse_json(shown, "again");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && error.where != "again" && !error.hint.empty(), error.what());
  }
  return 0;
}
