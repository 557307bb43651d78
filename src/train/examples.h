// Questions with answers: the data of supervised fine-tuning.
#pragma once

#include "train/data.h"

namespace choir::train {

// A line of a .jsonl under "prompt" and "answer".
struct Exchange {
  std::string prompt, answer;
  std::string where;  // file and line
};

// Throws Error (input) with file and line; also for a file of another kind.
std::vector<Exchange> read_exchanges(const std::string& path);

// Prompt, answer and end of text; the targets in front of the answer's first token are -1. An empty prompt is an end of
// text, and refused where the tokenizer has none. At most `length` inputs:
// what is too long loses the beginning of its prompt. Throws Error (input) with the line when the answer alone is too
// long, for one token of the prompt must stay.
Example make_example(const Exchange& exchange, const text::Tokenizer& tokenizer, int length);

// Examples in an order that is shuffled anew each time through, by the seed and the number of the time.
class ExampleOrder {
 public:
  ExampleOrder(size_t count, uint64_t seed) : count_(count), seed_(seed) {}
  size_t at(int64_t epoch, int64_t place);  // keeps the order of one epoch

 private:
  size_t count_;
  uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<size_t> order_;
};

}  // namespace choir::train
