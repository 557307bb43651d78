// Attributes, items and methods.
#include <algorithm>
#include <map>

#include "text/normalizer.h"
#include "text/template_builtins.h"
#include "text/utf8.h"

namespace choir::text::jinja {
namespace {

std::string_view last_character(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return text.substr(begin);
}

int64_t limit_of(const Value& count) {
  if (count.is_undefined() || count.is_none()) return -1;
  return count.as_int();
}

// Words between runs of white space.
List split_at_space(std::string_view text, int64_t limit) {
  List parts;
  while (true) {
    text = stripped(text, {}, Side::kLeft);
    if (text.empty()) return parts;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text);
      return parts;
    }
    size_t end = 0;
    while (end < text.size() && space_at_front(text.substr(end)) == 0) end = next_character(text, end);
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

List split_text(std::string_view text, const Value& separator, int64_t limit) {
  if (separator.is_undefined() || separator.is_none()) return split_at_space(text, limit);
  const std::string& between = separator.as_string();
  if (between.empty()) fail("an empty separator");
  List parts;
  for (size_t at; limit < 0 || static_cast<int64_t>(parts.size()) < limit; text.remove_prefix(at + between.size())) {
    at = text.find(between);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(0, at));
  }
  parts.emplace_back(text);
  return parts;
}

List split_from_right(std::string_view text, const Value& separator, int64_t limit) {
  if (limit < 0) return split_text(text, separator, limit);
  const std::string& between = separator.as_string();
  if (between.empty()) fail("an empty separator");
  List parts;
  while (static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(between);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(at + between.size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

List split_lines(std::string_view text) {
  List lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("\n\r"), text.size());
    lines.emplace_back(text.substr(0, end));
    const bool pair = text.substr(end).starts_with("\r\n");
    text.remove_prefix(std::min(text.size(), end + (pair ? 2 : 1)));
  }
  return lines;
}

bool begins_or_ends(const std::string& text, const Value& with, bool begins) {
  if (with.is_tuple()) {
    const List& any = with.as_list();
    return std::any_of(any.begin(), any.end(), [&](const Value& one) { return begins_or_ends(text, one, begins); });
  }
  return begins ? text.starts_with(with.as_string()) : text.ends_with(with.as_string());
}

// The number of the character at a byte; -1 stands for nowhere.
int64_t character_index(const std::string& text, size_t byte) {
  if (byte == std::string::npos) return -1;
  return static_cast<int64_t>(count_characters(std::string_view(text).substr(0, byte)));
}

int64_t count_of(const std::string& text, const std::string& part) {
  if (part.empty()) return static_cast<int64_t>(count_characters(text)) + 1;
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

bool all_ascii(const std::string& text, bool digits, bool letters) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return (digits && c >= '0' && c <= '9') || (letters && letter);
  });
}

// Each word with a capital; a word is a run of letters.
std::string titled(std::string_view text) {
  std::string result;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_character(text, at);
    const std::string_view character = text.substr(at, end - at);
    result += inside ? lowercase(character) : uppercase(character);
    inside = lowercase(character) != uppercase(character);
    at = end;
  }
  return result;
}

using Method = Value (*)(const std::string& text, const Arguments& arguments);

const std::map<std::string_view, Method>& string_methods() {
  using A = const Arguments&;
  using T = const std::string&;
  static const std::map<std::string_view, Method> kMethods = {
      {"strip", [](T t, A a) { return Value(stripped(t, a.get(0, "chars"), Side::kBoth)); }},
      {"lstrip", [](T t, A a) { return Value(stripped(t, a.get(0, "chars"), Side::kLeft)); }},
      {"rstrip", [](T t, A a) { return Value(stripped(t, a.get(0, "chars"), Side::kRight)); }},
      {"split", [](T t, A a) { return Value(split_text(t, a.get(0, "sep"), limit_of(a.get(1, "maxsplit")))); }},
      {"rsplit", [](T t, A a) { return Value(split_from_right(t, a.get(0, "sep"), limit_of(a.get(1, "maxsplit")))); }},
      {"splitlines", [](T t, A) { return Value(split_lines(t)); }},
      {"startswith", [](T t, A a) { return Value(begins_or_ends(t, a.get(0, "prefix"), true)); }},
      {"endswith", [](T t, A a) { return Value(begins_or_ends(t, a.get(0, "suffix"), false)); }},
      {"replace", [](T t, A a) { return Value(replaced(t, a.get(0, "old"), a.get(1, "new"), a.get(2, "count"))); }},
      {"upper", [](T t, A) { return Value(uppercase(t)); }},
      {"lower", [](T t, A) { return Value(lowercase(t)); }},
      {"title", [](T t, A) { return Value(titled(t)); }},
      {"capitalize", [](T t, A) { return Value(capitalized(t)); }},
      {"find", [](T t, A a) { return Value(character_index(t, t.find(a.get(0, "sub").as_string()))); }},
      {"rfind", [](T t, A a) { return Value(character_index(t, t.rfind(a.get(0, "sub").as_string()))); }},
      {"count", [](T t, A a) { return Value(count_of(t, a.get(0, "sub").as_string())); }},
      {"join", [](T t, A a) { return joined(a.get(0, "iterable"), t); }},
      {"isdigit", [](T t, A) { return Value(all_ascii(t, true, false)); }},
      {"isalpha", [](T t, A) { return Value(all_ascii(t, false, true)); }},
      {"isalnum", [](T t, A) { return Value(all_ascii(t, true, true)); }},
      {"isspace", [](T t, A) { return Value(!t.empty() && stripped(t, {}, Side::kBoth).empty()); }},
      {"isupper", [](T t, A) { return Value(uppercase(t) == t && lowercase(t) != t); }},
      {"islower", [](T t, A) { return Value(lowercase(t) == t && uppercase(t) != t); }},
      {"removeprefix",
       [](T t, A a) {
         const std::string& front = a.get(0, "prefix").as_string();
         return Value(t.starts_with(front) ? t.substr(front.size()) : t);
       }},
      {"removesuffix",
       [](T t, A a) {
         const std::string& back = a.get(0, "suffix").as_string();
         return Value(t.ends_with(back) ? t.substr(0, t.size() - back.size()) : t);
       }},
  };
  return kMethods;
}

Value dict_method(const Value& dict, std::string_view name) {
  if (name == "items" || name == "keys" || name == "values")
    return Function([dict, name = std::string(name)](const Arguments&) -> Value {
      List list;
      for (const auto& [key, value] : dict.as_dict().entries) {
        if (name == "items")
          list.push_back(Value(List{key, value}, true));
        else
          list.push_back(name == "keys" ? key : value);
      }
      return list;
    });
  if (name != "get") return {};
  return Function([dict](const Arguments& arguments) -> Value {
    const Value* found = dict.as_dict().find(arguments.get(0, "key"));
    if (found) return *found;
    const Value fallback = arguments.get(1, "default");
    return fallback.is_undefined() ? Value(Value::None{}) : fallback;
  });
}

Value list_method(const Value& list, std::string_view name) {
  if (name == "append" || name == "extend" || name == "insert" || name == "pop" || name == "remove")
    fail("templates may not change lists: ." + std::string(name));
  if (name != "index" && name != "count") return {};
  return Function([list, counts = name == "count"](const Arguments& arguments) -> Value {
    const List& all = list.as_list();
    const Value wanted = arguments.get(0, "value");
    if (counts) return static_cast<int64_t>(std::count(all.begin(), all.end(), wanted));
    const auto found = std::find(all.begin(), all.end(), wanted);
    if (found == all.end()) fail("the value is not in the list");
    return static_cast<int64_t>(found - all.begin());
  });
}

Value element_at(const Value& value, int64_t index) {
  if (value.is_string()) {
    const List characters = value.elements();
    return element_at(Value(characters), index);
  }
  const List& list = value.as_list();
  const auto size = static_cast<int64_t>(list.size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value::undefined("element " + std::to_string(index));
  return list[static_cast<size_t>(index)];
}

}  // namespace

std::string_view stripped(std::string_view text, const Value& characters, Side side) {
  const bool spaces = characters.is_undefined() || characters.is_none();
  const auto goes = [&](std::string_view character) {
    return spaces ? space_at_front(character) > 0 : characters.as_string().find(character) != std::string::npos;
  };
  while (side != Side::kRight && !text.empty() && goes(text.substr(0, next_character(text, 0))))
    text.remove_prefix(next_character(text, 0));
  while (side != Side::kLeft && !text.empty() && goes(last_character(text)))
    text.remove_suffix(last_character(text).size());
  return text;
}

std::string replaced(const std::string& text, const Value& from, const Value& to, const Value& count) {
  const std::string &old = from.as_string(), &fresh = to.as_string();
  int64_t left = limit_of(count);
  std::string result;
  size_t done = 0;
  while (left != 0 && done <= text.size()) {
    const size_t at = text.find(old, done);
    if (at == std::string::npos) break;
    // An empty text stands between all characters.
    const size_t next = old.empty() ? std::min(next_character(text, at), text.size() + 1) : at + old.size();
    append_text(result, std::string_view(text).substr(done, at - done));
    append_text(result, fresh);
    if (old.empty()) append_text(result, std::string_view(text).substr(at, std::min(next, text.size()) - at));
    done = next;
    --left;
  }
  if (done < text.size()) append_text(result, std::string_view(text).substr(done));
  return result;
}

std::string capitalized(std::string_view text) {
  if (text.empty()) return {};
  const size_t first = next_character(text, 0);
  return uppercase(text.substr(0, first)) + lowercase(text.substr(first));
}

Value joined(const Value& list, const std::string& separator) {
  std::string result;
  bool first = true;
  for (const Value& part : list.elements()) {
    if (!first) append_text(result, separator);
    append_text(result, part.text());
    first = false;
  }
  return result;
}

Value method_of(const Value& value, std::string_view name) {
  if (value.is_dict()) return dict_method(value, name);
  if (value.is_list()) return list_method(value, name);
  if (!value.is_string()) return {};
  const auto found = string_methods().find(name);
  if (found == string_methods().end()) return {};
  return Function([value, method = found->second](const Arguments& a) { return method(value.as_string(), a); });
}

Value attribute_of(const Value& value, std::string_view name) {
  if (value.is_undefined()) fail("'" + value.undefined_name() + "' is undefined and has no ." + std::string(name));
  if (value.is_object()) return value.as_object().attribute(name);
  Value method = method_of(value, name);
  if (!method.is_undefined()) return method;
  const Value* found = value.is_dict() ? value.as_dict().find(name) : nullptr;
  return found ? *found : Value::undefined(std::string(name));
}

Value item_of(const Value& value, const Value& key) {
  if (value.is_undefined()) fail("'" + value.undefined_name() + "' is undefined and has no elements");
  if (value.is_dict()) {
    if (const Value* found = value.as_dict().find(key)) return *found;
  } else if ((value.is_list() || value.is_string()) && (key.is_int() || key.is_bool())) {
    return element_at(value, key.as_int());
  }
  return key.is_string() ? attribute_of(value, key.as_string()) : Value::undefined(key.text());
}

}  // namespace choir::text::jinja
