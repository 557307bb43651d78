// What tests of words read and compare: a word from its text, and choices under several numbers of threads.
#pragma once

#include <doctest/doctest.h>

#include "base/error.h"
#include "moe/arguments.h"
#include "moe/reference/case.h"

namespace choir::moe::reference {

template <class Word>
Word read_word(const std::string& text) {
  const Phrase phrase = parse_phrase(text);
  Arguments arguments(phrase);
  const Word word = Word::read(arguments);
  arguments.done();
  return word;
}

// The text reads back to itself, and what is written stands in `refused` is an Error.
template <class Word>
void check_text(std::initializer_list<const char*> canonical, std::initializer_list<const char*> refused) {
  for (const std::string text : canonical) {
    CAPTURE(text);
    std::string plain = text;
    std::erase(plain, ' ');
    CHECK(read_word<Word>(plain).text() == text);
  }
  for (const std::string text : refused) {
    CAPTURE(text);
    CHECK_THROWS_AS(read_word<Word>(text), base::Error);
  }
}

// The proposals for scores z (N,E); equal for one thread and for three.
template <class Word>
std::vector<int32_t> proposals(const Word& word, Case& c, const std::vector<float>& z) {
  std::vector<int32_t> first, second;
  base::Threads one(1), three(3);
  for (auto [threads, list] : {std::pair{&one, &first}, std::pair{&three, &second}}) {
    const Context context = c.context();
    const Context with{.tokens = context.tokens,
                       .experts = context.experts,
                       .idle = context.idle,
                       .tensors = {},
                       .state = context.state,
                       .shares = context.shares,
                       .rule = context.rule,
                       .seed = context.seed,
                       .threads = *threads};
    word.propose(with, matrix(z, c.experts), *list);
  }
  CHECK(first == second);
  CHECK(first.size() == static_cast<size_t>(c.rows) * static_cast<size_t>(word.choices(c.experts)));
  return first;
}

// Half of the numbers moved onto a grid, so that many are equal.
inline std::vector<double> with_ties(std::vector<double> z) {
  for (size_t i = 0; i < z.size(); i += 2) z[i] = std::round(z[i] * 2) / 2;
  return z;
}

// Without padding a case, with padding the same tokens among others: `where` are the rows of the first in the second.
inline std::vector<int32_t> rows_of(const std::vector<int32_t>& lists, int choices, const std::vector<int>& where) {
  std::vector<int32_t> result;
  for (const int t : where)
    for (int s = 0; s < choices; ++s) result.push_back(lists[static_cast<size_t>(t) * choices + s]);
  return result;
}

}  // namespace choir::moe::reference
