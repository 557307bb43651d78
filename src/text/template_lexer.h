// A chat template as a list of tokens, with the white space of its tags gone where Jinja takes it away.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace choir::text::jinja {

struct Token {
  enum class Kind {
    kText,
    kOutputBegin,
    kOutputEnd,
    kTagBegin,
    kTagEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };

  Kind kind;
  std::string text;  // of a string: what it means
  int line;
};

[[noreturn]] void template_error(const std::string& what, const std::string& where, int line);

// trim_blocks and lstrip_blocks are on, as `transformers` has them. Ends with a kEnd.
// Throws Error (input) that names `where` and the line.
std::vector<Token> split_template(std::string_view source, const std::string& where);

}  // namespace choir::text::jinja
