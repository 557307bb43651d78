#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "base/error.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using namespace normalize;

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

template <class Visit>
void each_character(std::string_view text, const Visit& visit) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_character(text, at);
    visit(text.substr(at, end - at));
    at = end;
  }
}

utf8proc_option_t options_of(Form form) {
  const int compose = form == Form::kNfc || form == Form::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  const int compatible = form == Form::kNfkc || form == Form::kNfkd ? UTF8PROC_COMPAT : 0;
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | compose | compatible);
}

void append_form(std::string_view text, Form form, std::string& result) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &mapped, options_of(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  CHOIR_CHECK(size >= 0, utf8proc_errmsg(size));
  result.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

// An ASCII letter may change with the marks after it and never with what stands before it: text is cut before each
// ASCII letter that a foreign one follows, and runs of ASCII are copied.
std::string apply_step(const Unicode& step, std::string_view text, Place) {
  std::string result;
  result.reserve(text.size());
  size_t begin = 0;
  while (begin < text.size()) {
    size_t foreign = begin;
    while (foreign < text.size() && is_ascii(text[foreign])) ++foreign;
    const size_t cut = foreign == text.size() ? foreign : std::max(begin, foreign - std::min<size_t>(1, foreign));
    result += text.substr(begin, cut - begin);
    if (foreign == text.size()) break;
    size_t end = foreign;
    while (end < text.size() && !is_ascii(text[end])) ++end;
    append_form(text.substr(cut, end - cut), step.form, result);
    begin = end;
  }
  return result;
}

std::string apply_step(const Lowercase&, std::string_view text, Place) { return lowercase(text); }

std::string apply_step(const StripAccents&, std::string_view text, Place) {
  std::string result;
  each_character(text, [&](std::string_view character) {
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point(character)));
    const bool mark =
        category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
    if (!mark) result += character;
  });
  return result;
}

bool nmt_removes(char32_t c) {
  return (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
}

bool nmt_blanks(char32_t c) {
  return c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
         c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
}

std::string apply_step(const Nmt&, std::string_view text, Place) {
  std::string result;
  each_character(text, [&](std::string_view character) {
    const char32_t point = code_point(character);
    if (nmt_blanks(point))
      result += ' ';
    else if (!nmt_removes(point))
      result += character;
  });
  return result;
}

std::string apply_step(const Strip& step, std::string_view text, Place) {
  if (step.left)
    while (!text.empty()) {
      const size_t size = next_character(text, 0);
      if (!is_white_space(code_point(text.substr(0, size)))) break;
      text.remove_prefix(size);
    }
  if (step.right)
    while (!text.empty()) {
      size_t last = text.size() - 1;
      while (last > 0 && utf8_character(text.substr(last)) == 0) --last;
      if (!is_white_space(code_point(text.substr(last)))) break;
      text.remove_suffix(text.size() - last);
    }
  return std::string(text);
}

std::string apply_step(const Prepend& step, std::string_view text, Place place) {
  return text.empty() || place == Place::kInside ? std::string(text) : step.text + std::string(text);
}

std::string apply_step(const Replace& step, std::string_view text, Place) {
  std::string result;
  result.reserve(text.size());
  size_t done = 0;
  for (size_t at; (at = text.find(step.from, done)) != std::string_view::npos; done = at + step.from.size()) {
    result += text.substr(done, at - done);
    result += step.to;
  }
  result += text.substr(done);
  return result;
}

std::string apply_step(const ReplaceMatches& step, std::string_view text, Place) {
  if (text.empty()) return {};
  std::string result;
  size_t done = 0;
  Regex::Scratch scratch;
  step.pattern->each_match(text, scratch, [&](size_t begin, size_t end) {
    result += text.substr(done, begin - done);
    result += step.to;
    done = end;
  });
  result += text.substr(done);
  return result;
}

void append_by_letters(const Charsmap& map, std::string_view grapheme, std::string& result) {
  each_character(grapheme, [&](std::string_view character) {
    const auto match = map.shortest(character);
    result += match ? match->replacement : character;
  });
}

// normalizers/precompiled.rs of `tokenizers`: a grapheme of fewer than six bytes is replaced as a whole.
std::string apply_step(const Precompiled& step, std::string_view text, Place) {
  constexpr size_t kLongGrapheme = 6;
  std::string result;
  const auto finish = [&](std::string_view grapheme) {
    const auto match = grapheme.size() < kLongGrapheme ? step.map->shortest(grapheme) : std::nullopt;
    if (match)
      result += match->replacement;
    else
      append_by_letters(*step.map, grapheme, result);
  };
  size_t begin = 0;
  utf8proc_int32_t state = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_character(text, at);
    const auto point = static_cast<utf8proc_int32_t>(code_point(text.substr(at, end - at)));
    if (end < text.size()) {
      const size_t next_end = next_character(text, end);
      const auto next = static_cast<utf8proc_int32_t>(code_point(text.substr(end, next_end - end)));
      if (utf8proc_grapheme_break_stateful(point, next, &state)) {
        finish(text.substr(begin, end - begin));
        begin = end;
      }
    }
    at = end;
  }
  if (begin < text.size()) finish(text.substr(begin));
  return result;
}

// What the front of the text becomes, and how many bytes of it.
std::pair<std::string_view, size_t> first_part(const SentencePiece& step, std::string_view text) {
  for (const std::string& kept : step.kept)
    if (text.starts_with(kept)) return {text.substr(0, kept.size()), kept.size()};
  if (const auto match = step.map->longest(text)) return {match->replacement, match->size};
  const size_t size = next_character(text, 0);
  return {text.substr(0, size), size};
}

std::string apply_step(const SentencePiece& step, std::string_view text, Place place) {
  const std::string blank = step.escape_spaces ? "▁" : " ";
  while (step.remove_extra_spaces && place != Place::kInside && !text.empty()) {
    const auto [part, size] = first_part(step, text);
    if (part != " ") break;
    text.remove_prefix(size);
  }
  if (text.empty()) return {};
  std::string result;
  result.reserve(text.size() + text.size() / 2);
  if (step.add_dummy_prefix && !step.spaces_as_suffix && place != Place::kInside) result += blank;
  bool after_blank = step.remove_extra_spaces && place != Place::kInside;
  while (!text.empty()) {
    auto [part, size] = first_part(step, text);
    while (after_blank && part.starts_with(' ')) part.remove_prefix(1);
    for (const char c : part)
      if (c == ' ')
        result += blank;
      else
        result += c;
    if (!part.empty()) after_blank = step.remove_extra_spaces && part.ends_with(' ');
    text.remove_prefix(size);
  }
  while (step.remove_extra_spaces && result.ends_with(blank)) result.resize(result.size() - blank.size());
  if (step.add_dummy_prefix && step.spaces_as_suffix) result += blank;
  return result;
}

}  // namespace

// As Unicode's table SpecialCasing says of the one letter whose small form is two characters.
std::string lowercase(std::string_view text) {
  constexpr char32_t kDottedI = 0x130;
  std::string result;
  each_character(text, [&](std::string_view character) {
    const char32_t point = code_point(character);
    if (point == kDottedI)
      result += "i\xcc\x87";
    else
      append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point))), result);
  });
  return result;
}

std::string uppercase(std::string_view text) {
  constexpr char32_t kSharpS = 0xdf;
  std::string result;
  each_character(text, [&](std::string_view character) {
    const char32_t point = code_point(character);
    if (point == kSharpS)
      result += "SS";
    else
      append_utf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(point))), result);
  });
  return result;
}

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_word_character(char32_t c) {
  const auto within = [c](char32_t low, char32_t high) { return c >= low && c <= high; };
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default:  // joiners; letters in circles and squares
      return within(0x200c, 0x200d) || within(0x24b6, 0x24e9) || within(0x1f130, 0x1f149) || within(0x1f150, 0x1f169) ||
             within(0x1f170, 0x1f189);
  }
}

std::string Normalizer::apply(std::string_view text, Place place) const {
  std::string result(text);
  for (const Step& step : steps_)
    result = std::visit([&](const auto& one) { return apply_step(one, result, place); }, step);
  return result;
}

}  // namespace choir::text
