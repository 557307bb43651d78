#include "base/atomic_output.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"

namespace choir::base {
namespace {
namespace fs = std::filesystem;

// A directory of its own that goes with the test.
struct Place {
  fs::path path = fs::temp_directory_path() / ("choir_atomic_output_test." + std::to_string(::getpid()));
  Place() { fs::create_directory(path); }
  ~Place() { fs::remove_all(path); }
  std::string at(const char* name) const { return (path / name).string(); }
  int entries() const {
    int count = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(path)) ++count;
    return count;
  }
};

Fault fault_of(auto&& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.fault;
  }
  FAIL("no error");
  return Fault::kProgram;
}

TEST_CASE("atomic output: a file appears at commit, whole") {
  const Place place;
  {
    AtomicFile file(place.at("a"), Existing::kRefuse);
    file.write("one ");
    CHECK(!fs::exists(place.at("a")));
    file.write("two");
    file.commit();
  }
  CHECK(read_file(place.at("a")) == "one two");
  CHECK(place.entries() == 1);
}

TEST_CASE("atomic output: without commit nothing is left, and what was there stays") {
  const Place place;
  { AtomicFile(place.at("a"), Existing::kRefuse).write("lost"); }
  CHECK(place.entries() == 0);
  write_file(place.at("a"), "old", Existing::kRefuse);
  { AtomicFile(place.at("a"), Existing::kReplace).write("lost"); }
  CHECK(read_file(place.at("a")) == "old");
  CHECK(place.entries() == 1);
}

TEST_CASE("atomic output: an existing file is refused or replaced as asked") {
  const Place place;
  write_file(place.at("a"), "old", Existing::kRefuse);
  CHECK(fault_of([&] { write_file(place.at("a"), "new", Existing::kRefuse); }) == Fault::kUsage);
  CHECK(read_file(place.at("a")) == "old");
  write_file(place.at("a"), "new", Existing::kReplace);
  CHECK(read_file(place.at("a")) == "new");
  CHECK(place.entries() == 1);
}

TEST_CASE("atomic output: a file that appears meanwhile is not overwritten") {
  const Place place;
  {
    AtomicFile file(place.at("a"), Existing::kRefuse);
    write_file(place.at("a"), "other", Existing::kRefuse);
    CHECK(fault_of([&] { file.commit(); }) == Fault::kUsage);
  }
  CHECK(read_file(place.at("a")) == "other");
  CHECK(place.entries() == 1);
}

TEST_CASE("atomic output: a parent that is missing is named before work begins") {
  const Place place;
  CHECK(fault_of([&] { check_output(place.at("no/a"), Existing::kReplace, Kind::kFile); }) == Fault::kUsage);
  CHECK(fault_of([&] { check_output("", Existing::kReplace, Kind::kFile); }) == Fault::kUsage);
  CHECK_NOTHROW(check_output(place.at("a/"), Existing::kRefuse, Kind::kDirectory));
}

TEST_CASE("atomic output: a directory appears whole, and replaces the old one whole") {
  const Place place;
  {
    AtomicDirectory directory(place.at("d/"), Existing::kRefuse);
    write_file(directory.path() + "/x", "1", Existing::kRefuse);
    write_file(directory.path() + "/y", "2", Existing::kRefuse);
    CHECK(!fs::exists(place.at("d")));
    directory.commit();
  }
  CHECK(read_file(place.at("d/y")) == "2");
  CHECK(fault_of([&] { AtomicDirectory(place.at("d"), Existing::kRefuse); }) == Fault::kUsage);
  { write_file(AtomicDirectory(place.at("d"), Existing::kReplace).path() + "/x", "lost", Existing::kRefuse); }
  CHECK(read_file(place.at("d/x")) == "1");
  {
    AtomicDirectory directory(place.at("d"), Existing::kReplace);
    write_file(directory.path() + "/x", "3", Existing::kRefuse);
    directory.commit();
  }
  CHECK(read_file(place.at("d/x")) == "3");
  CHECK(!fs::exists(place.at("d/y")));
  CHECK(place.entries() == 1);
}

}  // namespace
}  // namespace choir::base
