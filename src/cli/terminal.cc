#include "cli/terminal.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"

namespace choir::cli {
namespace {

volatile std::sig_atomic_t signalled = 0;  // a signal handler can reach nothing but a global

}  // namespace

void print_json(const nlohmann::ordered_json& json) {
  const std::string line = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

void ProgressLine::show(const std::string& text) {
  if (!stderr_is_terminal()) return;
  std::fprintf(stderr, "\r%-100s", text.c_str());
  std::fflush(stderr);
  shown_ = true;
}

ProgressLine::~ProgressLine() {
  if (shown_) std::fputc('\n', stderr);
}

void exit_when_interrupted() {
  for (const int signal : {SIGINT, SIGTERM})
    std::signal(signal, [](int) {
      constexpr std::string_view line = "choir: interrupted\n";
      [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
      ::_exit(static_cast<int>(base::Fault::kInterrupted));
    });
}

bool interrupted() {
  static const bool installed = [] {
    for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, [](int) { signalled = 1; });
    return true;
  }();
  return installed && signalled;
}

}  // namespace choir::cli
