#include "base/trace_file.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"

namespace choir::base {
namespace {

TEST_CASE("trace file: one event for each span and each busy time, and nothing else in its place") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("choir_trace_file_test." + std::to_string(::getpid()))).string();
  std::filesystem::remove(path);
  Threads threads(1);
  Profile profile(threads);
  {
    const Scope step(threads, "step");
    const Scope layer(threads, "layer", 3);
    const Operator op(threads, "down", moved_bytes, size_t{12});
    threads.for_each(4, [](int) {});
  }
  write_trace(profile, path, Existing::kRefuse);
  const std::string text = read_file(path);
  const auto count = [&](const std::string& part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  };
  CHECK(count("\"ph\":\"X\"") == 4);
  CHECK(count("\"name\":\"down\"") == 2);  // the operator, and thread 0 busy with it
  CHECK(count("\"args\":{\"layer\":3}") == 1);
  CHECK(count("\"other bytes\":12") == 1);
  CHECK(count("\"name\":\"thread 0\"") == 1);
  CHECK_THROWS_AS(write_trace(profile, path, Existing::kRefuse), Error);
  profile.clear();
  write_trace(profile, path, Existing::kReplace);
  CHECK(read_file(path) == text.substr(0, text.find(",\n{\"name\":\"step\"")) + "\n]}\n");
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace choir::base
