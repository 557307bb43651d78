#include "base/error.h"

#include <doctest/doctest.h>

namespace choir::base {
namespace {

TEST_CASE("error: one line of what, where and hint") {
  const Error e(Fault::kInput, "bad header", "a.safetensors", "convert it again");
  CHECK(std::string(e.what()) == "bad header: a.safetensors: convert it again");
  CHECK(std::string(Error(Fault::kUsage, "bad", "", "").what()) == "bad");
}

TEST_CASE("error: control characters of a file name do not break the line") {
  const Error e(Fault::kInput, "bad\n", "a\x1b[31m", "\x7f");
  CHECK(std::string(e.what()) == "bad?: a?[31m: ?");
  CHECK(e.where == "a?[31m");
}

TEST_CASE("error: the fault is the exit status") {
  const auto status = [](auto throws) {
    try {
      throws();
    } catch (const Error& e) {
      return static_cast<int>(e.fault);
    }
    return 0;
  };
  CHECK(status([] { usage_error("", "", ""); }) == 2);
  CHECK(status([] { input_error("", "", ""); }) == 3);
  CHECK(status([] { CHOIR_CHECK(false, "x"); }) == 1);
}

TEST_CASE("error: a promise names its condition, and its detail is made only when it breaks") {
  int made = 0;
  const auto detail = [&] { return ++made, std::string("seven"); };
  CHOIR_CHECK(1 < 2, detail());
  CHECK(made == 0);
  try {
    CHOIR_CHECK(2 < 1, detail());
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.message == "broken promise (2 < 1)");
    CHECK(e.hint == "seven");
    CHECK(e.where.find("error_test.cc:") != std::string::npos);
  }
}

}  // namespace
}  // namespace choir::base
