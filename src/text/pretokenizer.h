// Cuts text into words by regular expressions; merges never cross the end of a word.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace choir::text {

// The pattern of GPT-2, which ByteLevel with use_regex stands for.
extern const char* const kGpt2Pattern;

// The pattern of vocabularies trained here: GPT-2's, but every digit is a word of its own.
extern const char* const kSingleDigitsPattern;

// The pre-tokenizers Split(Regex, behavior Isolated) of `tokenizers`, one after the other: matches are words, and so
// is what lies between matches. Immutable; threads may share it.
class Pretokenizer {
 public:
  using Visit = std::function<void(std::string_view word)>;

  // Throws Error (input) naming `where` when a pattern is not a regular expression.
  Pretokenizer(const std::vector<std::string>& patterns, const std::string& where);
  Pretokenizer(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  // The words in order; together they are the text. The text must be valid UTF-8 (utf8.h).
  // Throws Error (input) when a pattern needs more steps than PCRE2 allows.
  void split(std::string_view text, const Visit& visit) const;

 private:
  struct Pattern;
  struct Match;
  void split_from(size_t stage, std::string_view text, const Match& match, const Visit& visit) const;

  std::vector<std::unique_ptr<const Pattern>> patterns_;
};

}  // namespace choir::text
