// Cuts text into words, which the model turns into ids one by one: the pre-tokenizers of `tokenizers`, one after the
// other.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/normalizer.h"
#include "text/regex.h"

namespace choir::text {

// The pattern of GPT-2, which ByteLevel with use_regex stands for.
extern const char* const kGpt2Pattern;

// The pattern of vocabularies trained here: GPT-2's, but every digit is a word of its own.
extern const char* const kSingleDigitsPattern;

namespace cut {

// What becomes of a match.
enum class Behavior { kRemoved, kIsolated, kContiguous, kMergedWithPrevious, kMergedWithNext };

struct Split {
  std::shared_ptr<const Regex> pattern;
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;  // what lies between matches is the match
};

// A blank in front of every word that does not begin with one.
struct PrefixSpace {};

// Blanks become a mark, one is put in front, words begin at marks.
struct Metaspace {
  enum class Prepend { kFirst, kNever, kAlways };
  std::string mark;
  Prepend prepend;
  bool split;
};

// Bytes become the letters of byte_level.h. What follows it cuts those; the words are bytes again in the end.
struct ByteLetters {};

using Step = std::variant<Split, PrefixSpace, Metaspace, ByteLetters>;

}  // namespace cut

// Each pattern cuts what the one before it left whole; matches are words, and so is what lies between them.
// Throws Error (input) naming `where` when a pattern is not a regular expression.
std::vector<cut::Step> isolate_matches(const std::vector<std::string>& patterns, const std::string& where);

// Immutable; threads may share it.
class Pretokenizer {
 public:
  using Visit = std::function<void(std::string_view word)>;
  using Arena = std::deque<std::string>;  // keeps the words whose bytes do not stand in the text

  explicit Pretokenizer(std::vector<cut::Step> steps = {});

  // Whether words are bytes for a byte-level vocabulary.
  bool byte_level() const { return byte_level_; }

  // The words in order, none empty. The text must be valid UTF-8 (utf8.h).
  // Words are views of the text or of what is added to the arena.
  // Throws Error (input) when a pattern needs more steps than PCRE2 allows.
  void split(std::string_view text, Place place, Arena& arena, const Visit& visit) const;

 private:
  struct Run;
  std::vector<cut::Step> steps_;
  bool byte_level_ = false;
  bool letters_ = false;  // the last steps see letters for bytes
};

}  // namespace choir::text
