#include "train/run_directory.h"

#include <doctest/doctest.h>

#include "train/test_run.h"

namespace choir::train {
namespace {

namespace fs = std::filesystem;

// The text of the usage error; empty when it is none.
std::string not_resumable(const TemporaryDirectory& place) {
  try {
    check_resumable(place.path());
  } catch (const base::Error& error) {
    return error.fault == base::Fault::kUsage ? error.what() : "";
  }
  return "";
}

TEST_CASE("run directory: only a run or an empty directory may be resumed") {
  for (const char* name : {"run.json", "checkpoint.safetensors"}) {
    const TemporaryDirectory place;
    CHECK(not_resumable(place).empty());
    place.write("run.json.partial.12", "{");  // a run that was killed at once
    CHECK(not_resumable(place).empty());
    place.write("letter.txt", "mine");
    CHECK(contains(not_resumable(place), place.path()));
    place.write(name, "{}");
    CHECK(not_resumable(place).empty());
  }
}

TEST_CASE("run directory: half files of a run go, and nothing else") {
  const TemporaryDirectory place;
  const auto half = {"checkpoint.safetensors.partial.77", "metrics.jsonl.partial.1", "config.json.partial.00"};
  const auto others = {"letter.partial.1",       "checkpoint.safetensors.partial.",
                       "run.json.partial.1.old", "run.json.partial.x",
                       "xrun.json.partial.1",    "run.json"};
  for (const auto& names : {half, others})
    for (const char* name : names) place.write(name, "half");
  fs::create_directory(place.file("run.json.partial.5"));
  place.write("run.json.partial.5/letter.txt", "mine");
  fs::create_symlink(place.file("run.json"), place.file("run.json.partial.6"));
  remove_leftovers(place.path());
  for (const char* name : half) CHECK(!fs::exists(place.file(name)));
  for (const char* name : others) CHECK(fs::exists(place.file(name)));
  CHECK(fs::exists(place.file("run.json.partial.5/letter.txt")));
  CHECK(fs::is_symlink(place.file("run.json.partial.6")));
}

}  // namespace
}  // namespace choir::train
