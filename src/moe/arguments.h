// A word of a router expression and what stands in its brackets: how words are read and written out again.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace choir::moe {

// name(argument, key=argument, ...); an argument is a phrase again: a number, a name, or a word with brackets.
struct Phrase {
  std::string key, name;
  std::vector<Phrase> arguments;
};

// Throws Error (usage) with how an expression is written.
[[noreturn]] void grammar_error(const std::string& what);

// True for that name alone, without brackets.
bool is_name(const Phrase& phrase, std::string_view name);

// Throws Error (usage) for unbalanced brackets, empty arguments and keys, and a key before the word itself.
Phrase parse_phrase(std::string_view text);

// Hands out the arguments of one word, each once. number, whole and phrase take the argument written key=..., else the
// first one without a key that nobody has taken. Every error is an Error (usage) that names the word, the argument and
// its range.
class Arguments {
 public:
  explicit Arguments(const Phrase& phrase);

  double number(const char* key, double least, double most, std::optional<double> fallback = {});
  int whole(const char* key, int least, int most, std::optional<int> fallback = {});
  // One of `known`, always written with its key; the first of them where nothing is written.
  std::string name(const char* key, std::initializer_list<const char*> known);
  // True when the bare name is among the arguments. Ask for flags before anything that takes arguments without a key.
  bool flag(const char* name);
  const Phrase* phrase(const char* key);
  bool has(const char* key) const;  // whether an argument is written with that key
  bool has_more() const;
  void done() const;  // throws when an argument is left over

  [[noreturn]] void refuse(const std::string& what) const;

 private:
  const Phrase* take(const char* key);

  const Phrase& phrase_;
  std::vector<bool> taken_;
};

// The shortest decimal that reads back as the same float.
std::string written(float value);
// name, or name(a, b): empty arguments are left out.
std::string written(const std::string& name, std::initializer_list<std::string> arguments);
// "key=value", or nothing where the value is the default.
std::string unless(const char* key, float value, float standard);

}  // namespace choir::moe
