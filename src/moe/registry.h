// The names of the words: what an expression may say, and how a word is written out again.
#pragma once

#include <string>
#include <vector>

#include "moe/words.h"

namespace choir::moe {

// One word of an expression: name(argument, ...).
struct Phrase {
  std::string name;
  std::vector<double> arguments;
};

// Each throws Error (usage) for an unknown name or arguments out of range, listing what is known.
Score make_score(const Phrase& phrase);
Propose make_propose(const Phrase& phrase);
Admit make_admit(const Phrase& phrase);
Weigh make_weigh(const Phrase& phrase);
Balance make_balance(const Phrase& phrase);

std::string write_out(const Words& words);

// The expression behind an alias, or the text itself.
std::string expand_alias(const std::string& text);

}  // namespace choir::moe
