// choir VERB MODEL [options]
#include <cstdio>
#include <exception>
#include <new>

#include "base/error.h"
#include "cli/arguments.h"
#include "cli/terminal.h"

int main(int argc, char** argv) {
  using choir::base::Fault;
  choir::cli::exit_when_interrupted();
  try {
    const auto call = choir::cli::parse_arguments(argc, argv);
    if (call) std::visit([&](const auto& verb) { choir::cli::run(verb, call->common); }, call->verb);
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) choir::base::input_error("cannot write", "stdout", "");
    return 0;
  } catch (const choir::base::Error& error) {
    std::fprintf(stderr, "choir: %s\n", error.what());
    return static_cast<int>(error.fault);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "choir: not enough memory: try a smaller batch or context\n");
    return static_cast<int>(Fault::kInput);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "choir: a fault of the program: %s\n", error.what());
    return static_cast<int>(Fault::kProgram);
  }
}
