#include "base/error.h"

namespace choir::base {
namespace {

// The line a user sees is one line: file names and JSON excerpts inside it must not break it.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

std::string line(const std::string& what, const std::string& where, const std::string& hint) {
  std::string text = what;
  for (const std::string* part : {&where, &hint})
    if (!part->empty()) text += ": " + *part;
  return text;
}

}  // namespace

Error::Error(Fault f, std::string w, std::string at, std::string h)
    : std::runtime_error(one_line(line(w, at, h))),
      fault(f),
      message(one_line(std::move(w))),
      where(one_line(std::move(at))),
      hint(one_line(std::move(h))) {}

void input_error(std::string what, std::string where, std::string hint) {
  throw Error(Fault::kInput, std::move(what), std::move(where), std::move(hint));
}

void usage_error(std::string what, std::string where, std::string hint) {
  throw Error(Fault::kUsage, std::move(what), std::move(where), std::move(hint));
}

void check_failed(const char* condition, const std::string& detail, const char* file, int line) {
  throw Error(Fault::kProgram, "broken promise (" + std::string(condition) + ")",
              std::string(file) + ":" + std::to_string(line), detail);
}

}  // namespace choir::base
