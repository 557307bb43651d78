#include "text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>

#include "base/error.h"

namespace choir::text {

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kSingleDigitsPattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// `tokenizers` runs Oniguruma, whose \s is the Unicode property White_Space. PCRE2's \s also takes U+180E, which
// traditional Mongolian uses inside words.
std::string with_unicode_spaces(const std::string& pattern) {
  std::string result;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const bool escape = pattern[i] == '\\' && i + 1 < pattern.size();
    if (!escape) {
      result += pattern[i];
      continue;
    }
    const char letter = pattern[++i];
    if (letter == 's') {
      result += "\\p{White_Space}";
    } else if (letter == 'S') {
      result += "\\P{White_Space}";
    } else {
      result += {'\\', letter};
    }
  }
  return result;
}

std::string message_of(int code) {
  std::string text(256, '\0');
  const int size = pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

}  // namespace

struct Pretokenizer::Pattern {
  explicit Pattern(pcre2_code* compiled) : code(compiled) {}
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  ~Pattern() { pcre2_code_free(code); }

  pcre2_code* code;
};

// Room for the bounds of the whole match; groups are of no interest.
struct Pretokenizer::Match {
  Match() : data(pcre2_match_data_create(1, nullptr)) {
    if (!data) throw std::bad_alloc();
  }
  Match(const Match&) = delete;
  Match& operator=(const Match&) = delete;
  ~Match() { pcre2_match_data_free(data); }

  pcre2_match_data* data;
};

Pretokenizer::Pretokenizer(const std::vector<std::string>& patterns, const std::string& where) {
  for (const std::string& given : patterns) {
    const std::string pattern = with_unicode_spaces(given);
    int error = 0;
    PCRE2_SIZE at = 0;
    // Without \C, which could end a word inside a character.
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
    if (!code) base::input_error("the pattern of the pre-tokenizer is not valid: " + given, where, message_of(error));
    patterns_.push_back(std::make_unique<Pattern>(code));
    // Where there is no JIT, pcre2_match interprets.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
}

Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::split(std::string_view text, const Visit& visit) const { split_from(0, text, Match(), visit); }

void Pretokenizer::split_from(size_t stage, std::string_view text, const Match& match, const Visit& visit) const {
  if (text.empty()) return;
  if (stage == patterns_.size()) return visit(text);
  const auto next_stage = [&](size_t from, size_t to) {
    split_from(stage + 1, text.substr(from, to - from), match, visit);
  };
  size_t done = 0;  // words up to here are out
  while (done < text.size()) {
    const int found = pcre2_match(patterns_[stage]->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                                  PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match.data, nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0)
      base::input_error("the pattern of the pre-tokenizer cannot split this text", message_of(found),
                        "use a tokenizer with a simpler pattern");
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.data);
    const size_t begin = bounds[0], end = bounds[1];
    CHOIR_CHECK(done <= begin && begin < end && end <= text.size(), "PCRE2 left the text");
    next_stage(done, begin);
    next_stage(begin, end);
    done = end;
  }
  next_stage(done, text.size());
}

}  // namespace choir::text
