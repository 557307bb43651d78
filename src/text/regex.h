// Regular expressions of tokenizer files: written for Oniguruma, which `tokenizers` runs, and run by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "text/utf8.h"

namespace choir::text {

// Immutable; threads may share it.
class Regex {
 public:
  struct Match {
    size_t begin, end;
  };

  // Room for the bounds of a match; each thread needs its own.
  class Scratch {
   public:
    Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch();

   private:
    friend class Regex;
    void* data_;
  };

  // Throws Error (input) that names `where` when the pattern is not a regular expression, or means something else to
  // PCRE2 than to Oniguruma.
  Regex(const std::string& pattern, const std::string& where);
  Regex(Regex&&) noexcept;
  ~Regex();

  // The first match at or after `from`, perhaps an empty one; what stands before `from` is seen by look-behind. The
  // text must be valid UTF-8 (utf8.h). Throws Error (input) when the search takes more steps than PCRE2 allows.
  std::optional<Match> find(std::string_view text, size_t from, Scratch& scratch) const;

  // Calls visit(begin, end) for the matches from left to right. An empty match where the last one ended is none.
  template <class Visit>
  void each_match(std::string_view text, Scratch& scratch, const Visit& visit) const;

 private:
  struct Code;
  std::unique_ptr<const Code> code_;
};

// The pattern that matches the text and nothing else.
std::string quoted_pattern(std::string_view text);

template <class Visit>
void Regex::each_match(std::string_view text, Scratch& scratch, const Visit& visit) const {
  size_t from = 0;
  std::optional<size_t> last_end;
  while (from <= text.size()) {
    const std::optional<Match> match = find(text, from, scratch);
    if (!match) return;
    const bool empty = match->begin == match->end;
    if (!empty || match->begin != last_end) visit(match->begin, match->end);
    last_end = match->end;
    from = empty ? next_character(text, match->end) : match->end;
  }
}

}  // namespace choir::text
