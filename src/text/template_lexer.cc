#include "text/template_lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "text/template_value.h"
#include "text/utf8.h"

namespace choir::text::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

// Line ends become \n, the last one goes.
std::string with_plain_lines(std::string_view source) {
  std::string result;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r')
      result += source[i];
    else if (i + 1 == source.size() || source[i + 1] != '\n')
      result += '\n';
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& where) : source_(with_plain_lines(source)), where_(where) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = next_tag();
      add_text(tag);
      if (tag < source_.size()) add_tag();
    }
    push(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  using Kind = Token::Kind;

  [[noreturn]] void error(const std::string& what) const { template_error(what, where_, line_); }

  void push(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  bool here(std::string_view text) const { return std::string_view(source_).substr(at_).starts_with(text); }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  size_t after_spaces(size_t at) const {
    while (const size_t space = space_at_front(std::string_view(source_).substr(at))) at += space;
    return at;
  }

  size_t next_tag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i)
      if (source_[i] == '{' && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    return source_.size();
  }

  // The text up to a tag, less the white space that the tag takes: with {%- all of it, before a block or comment what
  // stands between it and the beginning of the line.
  void add_text(size_t tag) {
    std::string text = source_.substr(at_, tag - at_);
    const bool line_starting = at_ == 0 || source_[at_ - 1] == '\n';
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (sign == '-') {
        while (const size_t space = space_at_end(text)) text.resize(text.size() - space);
      } else if (source_[tag + 1] != '{' && sign != '+') {
        size_t begin = text.size();
        while (begin > 0 && text[begin - 1] != '\n') {
          const size_t space = space_at_end(std::string_view(text).substr(0, begin));
          if (space == 0) break;
          begin -= space;
        }
        if (begin > 0 ? text[begin - 1] == '\n' : line_starting) text.resize(begin);
      }
    }
    if (!text.empty()) push(Kind::kText, std::move(text));
    advance(tag);
  }

  void add_tag() {
    const char kind = source_[at_ + 1];
    if (kind == '#') return skip_comment();
    size_t begin = at_ + 2;
    if (begin < source_.size() && (source_[begin] == '-' || (source_[begin] == '+' && kind == '%'))) ++begin;
    const bool raw = kind == '%' && raw_tag(begin);
    push(kind == '{' ? Kind::kOutputBegin : Kind::kTagBegin, "");
    if (raw) {
      tokens_.pop_back();
      return add_raw();
    }
    advance(begin);
    open_.clear();
    while (!end_of_tag(kind)) add_token();
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_ + 2);
    if (end == std::string::npos) error("a comment that does not end");
    const bool strip = end > at_ + 2 && source_[end - 1] == '-', keep = end > at_ + 2 && source_[end - 1] == '+';
    advance(end + 2);
    after_tag(strip, !keep);
  }

  // What follows a tag: with -%} white space goes, after a block or comment one line end.
  void after_tag(bool strip, bool trim) {
    size_t to = at_;
    if (strip)
      to = after_spaces(to);
    else if (trim && to < source_.size() && source_[to] == '\n')
      ++to;
    advance(to);
  }

  bool raw_tag(size_t at) const {
    at = after_spaces(at);
    const std::string_view rest = std::string_view(source_).substr(at);
    return rest.starts_with("raw") && (rest.size() == 3 || !is_name_letter(rest[3]));
  }

  // {% raw %} ... {% endraw %}
  void add_raw() {
    const size_t begin = source_.find("%}", at_);
    if (begin == std::string::npos) error("a tag that does not end");
    const bool strip = source_[begin - 1] == '-';
    advance(begin + 2);
    after_tag(strip, true);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      size_t name = tag + 2;
      if (name < source_.size() && (source_[name] == '-' || source_[name] == '+')) ++name;
      name = after_spaces(name);
      const size_t end = source_.find("%}", name);
      if (source_.compare(name, 6, "endraw") != 0 || end == std::string::npos) continue;
      add_text(tag);
      const bool strip_after = source_[end - 1] == '-';
      advance(end + 2);
      return after_tag(strip_after, true);
    }
    error("{% raw %} without {% endraw %}");
  }

  // Consumes the end of a tag when it stands here; a brace of a dict is none.
  bool end_of_tag(char kind) {
    advance(after_spaces(at_));
    if (at_ == source_.size()) error("a tag that does not end");
    const std::string end = kind == '{' ? "}}" : "%}";
    const bool strip = here("-" + end), keep = kind == '%' && here("+" + end);
    if (!open_.empty() || !(strip || keep || here(end))) return false;
    push(kind == '{' ? Kind::kOutputEnd : Kind::kTagEnd, "");
    advance(at_ + end.size() + (strip || keep ? 1 : 0));
    after_tag(strip, kind == '%' && !keep);
    return true;
  }

  void add_token() {
    const char c = source_[at_];
    if (is_digit(c)) return add_number();
    if (c == '"' || c == '\'') return add_string();
    if (is_name_letter(c)) {
      size_t end = at_;
      while (end < source_.size() && (is_name_letter(source_[end]) || is_digit(source_[end])) &&
             space_at_front(std::string_view(source_).substr(end)) == 0)
        ++end;
      push(Kind::kName, source_.substr(at_, end - at_));
      return advance(end);
    }
    add_operator();
  }

  void add_operator() {
    constexpr std::array<std::string_view, 25> kOperators = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*",
                                                             "/",  "%",  "~",  "<",  ">",  "=",  ".", ",", ":",
                                                             "|",  "(",  ")",  "[",  "]",  "{",  "}"};
    for (const std::string_view known : kOperators) {
      if (!here(known)) continue;
      check_brackets(known[0]);
      push(Kind::kOperator, std::string(known));
      return advance(at_ + known.size());
    }
    error("an unexpected character '" + source_.substr(at_, next_character(source_, at_) - at_) + "'");
  }

  void check_brackets(char c) {
    if (c == '(' || c == '[' || c == '{') open_ += c;
    if (c != ')' && c != ']' && c != '}') return;
    const char wanted = c == ')' ? '(' : c == ']' ? '[' : '{';
    if (open_.empty() || open_.back() != wanted) error(std::string("an unexpected '") + c + "'");
    open_.pop_back();
  }

  // Digits, with _ between them; a fraction, an exponent.
  void add_number() {
    std::string number;
    size_t end = add_digits(at_, number);
    bool real = false;
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_digit(source_[i]); };
    if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      real = true;
      number += '.';
      end = add_digits(end + 1, number);
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool sign = end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
      if (digit_at(end + (sign ? 2 : 1))) {
        real = true;
        number += sign && source_[end + 1] == '-' ? "e-" : "e";
        end = add_digits(end + (sign ? 2 : 1), number);
      }
    }
    push(real ? Kind::kFloat : Kind::kInteger, number);
    advance(end);
  }

  // Returns where they end.
  size_t add_digits(size_t at, std::string& digits) const {
    for (; at < source_.size() && (is_digit(source_[at]) || source_[at] == '_'); ++at)
      if (source_[at] != '_') digits += source_[at];
    return at;
  }

  void add_string() {
    const char quote = source_[at_];
    std::string text;
    size_t i = at_ + 1;
    while (i < source_.size() && source_[i] != quote) {
      if (source_[i] == '\\' && i + 1 < source_.size())
        i = unescape(i + 1, text);
      else
        text += source_[i++];
    }
    if (i >= source_.size()) error("a string that does not end");
    push(Kind::kString, std::move(text));
    advance(i + 1);
  }

  // What stands after a backslash at i - 1; returns where it ends. The escapes of Python.
  size_t unescape(size_t i, std::string& text) const {
    constexpr std::string_view kShort = "abfnrtv\\'\"", kMeant = "\a\b\f\n\r\t\v\\'\"";
    const char c = source_[i];
    if (const size_t known = kShort.find(c); known != std::string_view::npos) {
      text += kMeant[known];
      return i + 1;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == '\n') return i + 1;
    uint32_t point = 0;
    const char* begin = source_.data() + i + 1;
    const char* end = begin + std::min(digits, source_.size() - i - 1);
    const auto [stop, fault] = std::from_chars(begin, end, point, 16);
    if (digits == 0 || stop != begin + digits || fault != std::errc()) {
      if (digits > 0) error("an escape in a string without its digits");
      text += '\\';
      return i;
    }
    if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) error("an escape in a string that is no character");
    append_utf8(point, text);
    return i + 1 + digits;
  }

  std::string source_;
  const std::string& where_;
  std::vector<Token> tokens_;
  std::string open_;  // brackets of the current tag
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

void template_error(const std::string& what, const std::string& where, int line) {
  base::input_error(what, where + ": line " + std::to_string(line), "fix the chat template");
}

std::vector<Token> split_template(std::string_view source, const std::string& where) {
  return Lexer(source, where).run();
}

}  // namespace choir::text::jinja
