// What happens to text before it is cut into words: the normalizers of `tokenizers`, one after the other.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/charsmap.h"
#include "text/regex.h"

namespace choir::text {

// What stands before a piece of text: nothing, a token that was found in it, or bytes that are no character, beyond
// which nothing is put in front of the rest.
enum class Place { kBegin, kAfterToken, kInside };

namespace normalize {

enum class Form { kNfc, kNfd, kNfkc, kNfkd };

struct Unicode {
  Form form;
};
struct Lowercase {};
struct StripAccents {};
struct Nmt {};  // control characters go, all kinds of blanks become one

struct Strip {
  bool left, right;
};
struct Prepend {
  std::string text;  // not in front of an empty text
};
struct Replace {
  std::string from, to;  // from is not empty
};
struct ReplaceMatches {
  std::shared_ptr<const Regex> pattern;
  std::string to;
};

// Letters by a compiled table, as `tokenizers` does it: each grapheme by the shortest entry that it begins with.
struct Precompiled {
  std::shared_ptr<const Charsmap> map;
};

// All that a SentencePiece model does (src/normalizer.cc of google/sentencepiece).
struct SentencePiece {
  std::shared_ptr<const Charsmap> map;  // by the longest entry
  std::vector<std::string> kept;        // user-defined tokens, which stay as they are; longest first
  bool remove_extra_spaces, add_dummy_prefix, escape_spaces, spaces_as_suffix;
};

using Step = std::variant<Unicode, Lowercase, StripAccents, Nmt, Strip, Prepend, Replace, ReplaceMatches, Precompiled,
                          SentencePiece>;

}  // namespace normalize

// Immutable; threads may share it.
class Normalizer {
 public:
  explicit Normalizer(std::vector<normalize::Step> steps = {}) : steps_(std::move(steps)) {}

  bool idle() const { return steps_.empty(); }

  // The text must be valid UTF-8, and the result is.
  std::string apply(std::string_view text, Place place) const;

 private:
  std::vector<normalize::Step> steps_;
};

// By Unicode's tables, each character by itself; "ß" in capitals is "SS". The text must be valid UTF-8.
std::string lowercase(std::string_view text);
std::string uppercase(std::string_view text);

// Unicode's property White_Space.
bool is_white_space(char32_t point);

// What \w matches: letters, marks, decimal digits, connecting punctuation (UTS #18, annex C).
bool is_word_character(char32_t point);

}  // namespace choir::text
