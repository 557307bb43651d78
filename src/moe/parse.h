// From an expression to words and back.
#pragma once

#include <span>
#include <string>

#include "moe/words.h"

namespace choir::moe {

// Reads "linear > top_k(2) > all > chosen + load(0.01)" or an alias. Throws Error (usage) that names the word.
Words parse_words(const std::string& expression);

std::string write_out(const Words& words);

struct Alias {
  const char* name;
  const char* expression;
};
std::span<const Alias> aliases();

}  // namespace choir::moe
