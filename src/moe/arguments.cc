#include "moe/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace choir::moe {
namespace {

constexpr int kDeepest = 8;  // brackets within brackets

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Phrase whole() {
    Phrase phrase = next(0);
    if (at_ != text_.size() || !phrase.key.empty()) grammar_error(fmt::format("\"{}\" is not a word", text_));
    return phrase;
  }

 private:
  std::string letters() {
    const size_t begin = at_;
    while (at_ < text_.size() && std::string_view("(),=").find(text_[at_]) == std::string_view::npos) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  bool follows(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Phrase next(int depth) {
    Phrase phrase{"", letters(), {}};
    if (follows('=')) {
      if (phrase.name.empty()) grammar_error(fmt::format("a key is missing in \"{}\"", text_));
      phrase.key = phrase.name;
      phrase.name = letters();
    }
    if (phrase.name.empty() || depth > kDeepest) grammar_error(fmt::format("a word is missing in \"{}\"", text_));
    if (!follows('(')) return phrase;
    do phrase.arguments.push_back(next(depth + 1));
    while (follows(','));
    if (!follows(')')) grammar_error(fmt::format("a bracket is missing in \"{}\"", text_));
    return phrase;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

void grammar_error(const std::string& what) {
  base::usage_error(what, "router", "write score > propose > admit > weigh + balance, or an alias such as mixtral");
}

bool is_name(const Phrase& phrase, std::string_view name) { return phrase.name == name && phrase.arguments.empty(); }

Phrase parse_phrase(std::string_view text) { return Parser(text).whole(); }

Arguments::Arguments(const Phrase& phrase) : phrase_(phrase), taken_(phrase.arguments.size()) {}

void Arguments::refuse(const std::string& what) const { grammar_error(fmt::format("\"{}\": {}", phrase_.name, what)); }

const Phrase* Arguments::take(const char* key) {
  const auto& all = phrase_.arguments;
  size_t at = 0;
  while (at < all.size() && (taken_[at] || all[at].key != key)) ++at;
  if (at == all.size()) at = 0;
  while (at < all.size() && (taken_[at] || (!all[at].key.empty() && all[at].key != key))) ++at;
  if (at == all.size()) return nullptr;
  taken_[at] = true;
  return &all[at];
}

const Phrase* Arguments::phrase(const char* key) { return take(key); }

double Arguments::number(const char* key, double least, double most, std::optional<double> fallback) {
  const Phrase* argument = take(key);
  if (!argument && fallback) return *fallback;
  const std::string range = fmt::format("{} from {} to {}", key, least, most);
  if (!argument) refuse("lacks " + range);
  char* end = nullptr;
  const double value = std::strtod(argument->name.c_str(), &end);
  if (*end || !argument->arguments.empty())
    refuse(fmt::format("\"{}\" is not a number; give {}", argument->name, range));
  if (!(value >= least && value <= most)) refuse(fmt::format("{} is out of range; give {}", argument->name, range));
  return value;
}

int Arguments::whole(const char* key, int least, int most, std::optional<int> fallback) {
  const double value = number(key, least, most, fallback);
  if (value != std::floor(value)) refuse(fmt::format("{} is not a whole number; give {}", value, key));
  return static_cast<int>(value);
}

std::string Arguments::name(const char* key, std::initializer_list<const char*> known) {
  for (size_t i = 0; i < taken_.size(); ++i) {
    const Phrase& argument = phrase_.arguments[i];
    if (taken_[i] || argument.key != key) continue;
    taken_[i] = true;
    if (argument.arguments.empty() && std::ranges::find(known, argument.name) != known.end()) return argument.name;
    std::string all;
    for (const char* one : known) all += (all.empty() ? "" : ", ") + std::string(one);
    refuse("unknown " + std::string(key) + " \"" + argument.name + "\"; known: " + all);
  }
  return *known.begin();
}

bool Arguments::flag(const char* name) {
  for (size_t i = 0; i < taken_.size(); ++i)
    if (!taken_[i] && phrase_.arguments[i].key.empty() && is_name(phrase_.arguments[i], name)) {
      taken_[i] = true;
      return true;
    }
  return false;
}

bool Arguments::has(const char* key) const {
  return std::ranges::any_of(phrase_.arguments, [&](const Phrase& argument) { return argument.key == key; });
}

bool Arguments::has_more() const { return std::ranges::find(taken_, false) != taken_.end(); }

void Arguments::done() const {
  for (size_t i = 0; i < taken_.size(); ++i) {
    const Phrase& argument = phrase_.arguments[i];
    if (!taken_[i])
      refuse("unexpected argument \"" + (argument.key.empty() ? "" : argument.key + "=") + argument.name + "\"");
  }
}

std::string written(float value) { return fmt::format("{}", value); }

std::string written(const std::string& name, std::initializer_list<std::string> arguments) {
  std::string inside;
  for (const std::string& argument : arguments)
    if (!argument.empty()) inside += (inside.empty() ? "" : ", ") + argument;
  return inside.empty() ? name : name + "(" + inside + ")";
}

std::string unless(const char* key, float value, float standard) {
  return value == standard ? "" : fmt::format("{}={}", key, value);
}

}  // namespace choir::moe
