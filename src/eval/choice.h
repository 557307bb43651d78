// Multiple choice by log-likelihood, by the rules of lm-evaluation-harness.
#pragma once

#include "eval/windows.h"

namespace choir::eval {

// The text of a choice follows the context as it is: the blank between them, if any, belongs to one of the two.
struct Question {
  std::string context;
  std::vector<std::string> choices;
  int gold = 0;
};

// JSON lines {"context": "...", "choices": ["...", ...], "gold": 0}; other keys are ignored, empty lines too. Throws
// Error (input) naming file, line and field; also when there is no question at all.
std::vector<Question> read_questions(const std::string& path);
std::vector<Question> parse_questions(const std::string& text, const std::string& where);

// The tokens of a choice after its context. Trailing blanks of the context move to the continuation; both are encoded
// together, and the continuation is what is left of that after as many tokens as the context alone has. An empty
// context becomes the prefix token. Throws Error (input) when nothing is left, or no prefix token is known.
struct Pair {
  std::vector<int32_t> context, continuation;
};
Pair encode_pair(const text::Tokenizer& tokenizer, std::string context, std::string continuation);

// Log-likelihood of the choice, in nats, divided by what the metric says; the first of equal choices wins.
struct Choices {
  int items = 0;
  double acc = 0;        // by nothing
  double acc_norm = 0;   // by the characters (code points) of the choice, a blank at its beginning aside
  double acc_bytes = 0;  // by its bytes, likewise
  std::vector<std::vector<double>> log_likelihoods;  // [question][choice]
};

// Contexts that are too long for the model are cut from the left. Throws Error (input) when a choice alone is too long.
Choices answer(const Model& model, const text::Tokenizer& tokenizer, std::span<const Question> questions,
               base::Threads& threads, const model::Observer& observer = {});

}  // namespace choir::eval
