// Renders chat templates, for tests that compare with other implementations.
//
//   render_template CASES
//
// CASES is a JSON list of {"template", "variables"}. Prints a JSON list of {"text"} or {"error"}.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "base/atomic_output.h"
#include "base/error.h"
#include "text/chat_template.h"

int main(int argc, char** argv) {
  using namespace choir;
  using nlohmann::ordered_json;
  if (argc != 2) {
    std::fprintf(stderr, "usage: render_template CASES\n");
    return 2;
  }
  ordered_json results = ordered_json::array();
  for (const ordered_json& each : ordered_json::parse(base::read_file(argv[1]))) {
    try {
      const text::ChatTemplate chat(each["template"].get<std::string>(), "template");
      results.push_back({{"text", chat.render(each["variables"])}});
    } catch (const base::Error& error) {
      results.push_back({{"error", error.what()}});
    }
  }
  std::puts(results.dump().c_str());
  return 0;
}
