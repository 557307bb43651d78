#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>

#include "base/error.h"

namespace choir::text {
namespace {

// Where the two dialects differ (Oniguruma's doc/RE, Ruby syntax):
//   \s is the property White_Space; PCRE2's \s also takes U+180E, which traditional Mongolian uses inside words
//   \w takes marks and connecting punctuation, \h is a hexadecimal digit
//   ^ and $ match at every line; a class may hold classes and intersections
//   a+ after {n,m} repeats the repetition, in PCRE2 it forbids going back
// The first three are translated, what the last two lines need is refused.
class Translation {
 public:
  Translation(const std::string& pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) step();
    return std::move(result_);
  }

 private:
  [[noreturn]] void unsupported(const std::string& what) const {
    base::input_error("the pattern " + pattern_ + " has " + what + ", which is not supported", where_,
                      "use a tokenizer with a simpler pattern");
  }

  void step() {
    const char c = pattern_[at_];
    if (c == '\\' && at_ + 1 < pattern_.size()) return escape();
    if (in_class_)
      inside_class(c);
    else
      outside_class(c);
    result_ += c;
    ++at_;
  }

  void outside_class(char c) {
    if (c == '[') {
      in_class_ = true;
      class_begin_ = at_ + (pattern_.substr(at_ + 1, 1) == "^" ? 2 : 1);
    }
    if (c == '}' && at_ + 1 < pattern_.size() && pattern_[at_ + 1] == '+') unsupported("{n,m}+");
  }

  void inside_class(char c) {
    if (c == ']' && at_ > class_begin_) in_class_ = false;
    if (c == '[' && pattern_.substr(at_ + 1, 1) != ":") unsupported("a class in a class");
    if (pattern_.substr(at_, 2) == "&&") unsupported("an intersection of classes");
  }

  void escape() {
    const char letter = pattern_[at_ + 1];
    at_ += 2;
    switch (letter) {
      case 's': result_ += "\\p{White_Space}"; return;
      case 'S': result_ += "\\P{White_Space}"; return;
      case 'h': result_ += in_class_ ? "0-9a-fA-F" : "[0-9a-fA-F]"; return;
      case 'w': result_ += in_class_ ? kWord : "[" + std::string(kWord) + "]"; return;
      case 'W':
        if (in_class_) unsupported("\\W in a class");
        result_ += "[^" + std::string(kWord) + "]";
        return;
      case 'p':
      case 'P': return property(letter);
      default: result_ += {'\\', letter};
    }
  }

  // \p{...} as it is, so that its brace is not taken for the end of a repetition.
  void property(char letter) {
    result_ += {'\\', letter};
    const size_t end = pattern_.find('}', at_);
    if (at_ >= pattern_.size() || pattern_[at_] != '{' || end == std::string::npos) return;
    result_ += pattern_.substr(at_, end + 1 - at_);
    at_ = end + 1;
  }

  static constexpr const char* kWord = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";

  const std::string& pattern_;
  const std::string& where_;
  std::string result_;
  size_t at_ = 0, class_begin_ = 0;
  bool in_class_ = false;
};

std::string message_of(int code) {
  std::string text(256, '\0');
  const int size = pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

pcre2_match_data* data_of(void* data) { return static_cast<pcre2_match_data*>(data); }

}  // namespace

struct Regex::Code {
  explicit Code(pcre2_code* compiled) : code(compiled) {}
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }

  pcre2_code* code;
};

// Groups are of no interest: one pair of bounds.
Regex::Scratch::Scratch() : data_(pcre2_match_data_create(1, nullptr)) {
  if (!data_) throw std::bad_alloc();
}

Regex::Scratch::~Scratch() { pcre2_match_data_free(data_of(data_)); }

Regex::Regex(const std::string& pattern, const std::string& where) {
  const std::string translated = Translation(pattern, where).run();
  int error = 0;
  PCRE2_SIZE at = 0;
  // Without \C, which could end a match inside a character.
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
  if (!code) base::input_error("the pattern is not a valid regular expression: " + pattern, where, message_of(error));
  code_ = std::make_unique<const Code>(code);
  // Where there is no JIT, pcre2_match interprets.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

Regex::Regex(Regex&&) noexcept = default;
Regex::~Regex() = default;

std::optional<Regex::Match> Regex::find(std::string_view text, size_t from, Scratch& scratch) const {
  const int found = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                PCRE2_NO_UTF_CHECK, data_of(scratch.data_), nullptr);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0)
    base::input_error("a pattern of the tokenizer cannot be searched for in this text", message_of(found),
                      "use a tokenizer with a simpler pattern");
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_of(scratch.data_));
  CHOIR_CHECK(from <= bounds[0] && bounds[0] <= bounds[1] && bounds[1] <= text.size(), "PCRE2 left the text");
  return Match{bounds[0], bounds[1]};
}

std::string quoted_pattern(std::string_view text) {
  constexpr std::string_view kSpecial = "\\^$.[]|()?*+{}&#-";
  std::string pattern;
  for (const char c : text) {
    if (kSpecial.find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace choir::text
