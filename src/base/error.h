// The two ways to fail: Error for the world's faults (files, models, requests), CHECK for the programmer's.
#pragma once

#include <stdexcept>
#include <string>

namespace choir::base {

// Whose fault it is; the value is the exit status of the program.
enum class Fault {
  kProgram = 1,      // a broken promise inside Choir
  kUsage = 2,        // the call is wrong
  kInput = 3,        // a file, model, text or request is bad
  kInterrupted = 4,  // the user stopped it
};

// One line for the user: WHAT happened, WHERE (file, tensor, byte offset or field), and a HINT what to do.
struct Error : std::runtime_error {
  Error(Fault fault, std::string what, std::string where, std::string hint);

  Fault fault;
  std::string message, where, hint;
};

[[noreturn]] void input_error(std::string what, std::string where, std::string hint);
[[noreturn]] void usage_error(std::string what, std::string where, std::string hint);
[[noreturn]] void check_failed(const char* condition, const std::string& detail, const char* file, int line);

}  // namespace choir::base

// Always on. DETAIL is a string expression, evaluated only when the condition fails.
#define CHOIR_CHECK(condition, detail)                                       \
  do {                                                                       \
    if (!(condition)) [[unlikely]]                                           \
      ::choir::base::check_failed(#condition, (detail), __FILE__, __LINE__); \
  } while (false)
