#include "text/template_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "text/normalizer.h"
#include "text/utf8.h"

namespace choir::text::jinja {
namespace {

// Deeper values are refused, so that going through them needs no more of the stack.
constexpr int kMostDepth = 200;
constexpr int64_t kMostWeight = int64_t{1} << 23;

void include(const Extent& part, Extent& all) {
  all.depth = std::max(all.depth, part.depth + 1);
  all.weight += part.weight;
  if (all.depth > kMostDepth) fail("a value is nested too deeply");
  if (all.weight > kMostWeight) fail("a value is too large");
}

// The shortest digits that mean this number; like Python, with an exponent from 1e16 on and below 1e-4.
std::string text_of(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  char buffer[64];
  const double size = std::fabs(number);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, format).ptr;
  std::string text(buffer, end);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string result(1, quote);
  for (const char c : text) {
    char escaped[16];
    if (c == quote || c == '\\') {
      result += {'\\', c};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      result += {'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned>(c));
      result += escaped;
    } else {
      result += c;
    }
  }
  return result + quote;
}

template <class Each>
std::string joined(size_t count, const char* open, const char* close, const Each& each) {
  std::string result = open;
  for (size_t i = 0; i < count; ++i) append_text(result, (i ? ", " : "") + each(i));
  return result + close;
}

std::string json_string(const std::string& text, bool ascii) {
  std::string result = "\"";
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_character(text, at);
    const std::string_view character = std::string_view(text).substr(at, end - at);
    at = end;
    const char32_t point = code_point(character);
    constexpr std::string_view kShort = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
    const size_t shortened = point < 0x80 ? kShort.find(static_cast<char>(point)) : std::string_view::npos;
    const auto escape = [&](unsigned unit) {
      char escaped[16];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", unit);
      result += escaped;
    };
    if (shortened != std::string_view::npos) {
      result += {'\\', kNames[shortened]};
    } else if (point >= 0x10000 && ascii) {  // a pair of surrogates
      escape(0xd800 + static_cast<unsigned>((point - 0x10000) >> 10));
      escape(0xdc00 + static_cast<unsigned>((point - 0x10000) & 0x3ff));
    } else if (point < 0x20 || (ascii && point > 0x7e)) {
      escape(static_cast<unsigned>(point));
    } else {
      result += character;
    }
  }
  return result + "\"";
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  std::string write(const Value& value, int depth) const {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.truth() ? "true" : "false";
    if (value.is_int()) return value.text();
    if (value.is_float()) return number(value.as_float());
    if (value.is_string()) return json_string(value.as_string(), style_.ascii);
    if (value.is_list()) return list(value.as_list(), depth);
    if (value.is_dict()) return dict(value.as_dict(), depth);
    fail("a value of type " + value.type_name() + " cannot be written as JSON");
  }

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return text_of(value);
  }

  std::string line(int depth) const {
    return style_.indent < 0 ? "" : "\n" + std::string(static_cast<size_t>(style_.indent * depth), ' ');
  }

  std::string list(const List& items, int depth) const {
    if (items.empty()) return "[]";
    std::string result = "[";
    for (size_t i = 0; i < items.size(); ++i)
      append_text(result, (i ? style_.comma : "") + line(depth + 1) + write(items[i], depth + 1));
    return result + line(depth) + "]";
  }

  std::string dict(const Dict& items, int depth) const {
    if (items.entries.empty()) return "{}";
    auto entries = items.entries;
    if (style_.sort_keys)
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return less(a.first, b.first); });
    std::string result = "{";
    for (size_t i = 0; i < entries.size(); ++i) {
      const Value& key = entries[i].first;
      const std::string name = key.is_string() ? key.as_string() : write(key, depth + 1);
      append_text(result, (i ? style_.comma : "") + line(depth + 1) + json_string(name, style_.ascii) + style_.colon +
                              write(entries[i].second, depth + 1));
    }
    return result + line(depth) + "}";
  }

  const JsonStyle& style_;
};

Value from_json_at(const nlohmann::ordered_json& json, int depth) {
  if (depth > kMostDepth) fail("a variable is nested too deeply");
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) {
    if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) return json.get<double>();
    return json.get<int64_t>();
  }
  if (json.is_number_float()) return json.get<double>();
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    if (valid_utf8_prefix(text) != text.size()) fail("a variable is not UTF-8");
    return text;
  }
  if (json.is_array()) {
    List list;
    for (const auto& item : json) list.push_back(from_json_at(item, depth + 1));
    return list;
  }
  if (json.is_object()) {
    Dict dict;
    for (const auto& [key, item] : json.items()) dict.entries.emplace_back(Value(key), from_json_at(item, depth + 1));
    return dict;
  }
  return Value::None{};
}

[[noreturn]] void wrong_kind(const Value& value, const std::string& wanted) {
  if (value.is_undefined()) fail("'" + value.undefined_name() + "' is undefined and used as " + wanted);
  fail("a value of type " + value.type_name() + " is used as " + wanted);
}

}  // namespace

void fail(const std::string& what) { throw Fault{what}; }

void append_text(std::string& text, std::string_view piece) {
  if (text.size() + piece.size() > kMostText) fail("a text is larger than 16 MiB");
  text += piece;
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [known, value] : entries)
    if (known == key) return &value;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [known, value] : entries)
    if (known.is_string() && known.as_string() == key) return &value;
  return nullptr;
}

void Dict::set(const Value& key, const Value& value) {
  for (auto& [known, old] : entries)
    if (known == key) {
      old = value;
      return;
    }
  entries.emplace_back(key, value);
}

Value Arguments::get(size_t i, std::string_view name) const {
  return i < positional.size() ? positional[i] : by_name(name);
}

Value Arguments::by_name(std::string_view name) const {
  for (const auto& [given, value] : named)
    if (given == name) return value;
  return {};
}

Extent Value::extent() const {
  if (is_list()) return std::get<Sequence>(data_).extent;
  if (is_dict()) return std::get<Mapping>(data_).extent;
  return {0, is_string() ? 1 + static_cast<int64_t>(as_string().size() / 16) : 1};
}

Value::Value(List list, bool tuple) {
  Extent all{1, 1};
  for (const Value& item : list) include(item.extent(), all);
  data_ = Sequence{std::make_shared<const List>(std::move(list)), tuple, all};
}

Value::Value(Dict dict) {
  Extent all{1, 1};
  for (const auto& [key, value] : dict.entries) {
    include(key.extent(), all);
    include(value.extent(), all);
  }
  data_ = Mapping{std::make_shared<const Dict>(std::move(dict)), all};
}

const std::string& Value::undefined_name() const { return std::get<Undefined>(data_).name; }

Value Value::undefined(std::string name) {
  Value value;
  value.data_ = Undefined{std::move(name)};
  return value;
}

Value Value::from_json(const nlohmann::ordered_json& json) { return from_json_at(json, 0); }

int64_t Value::as_int() const {
  if (is_bool()) return std::get<bool>(data_);
  if (!is_int()) wrong_kind(*this, "a whole number");
  return std::get<int64_t>(data_);
}

double Value::as_float() const {
  if (is_float()) return std::get<double>(data_);
  if (!is_number()) wrong_kind(*this, "a number");
  return static_cast<double>(as_int());
}

const std::string& Value::as_string() const {
  if (!is_string()) wrong_kind(*this, "a string");
  return *std::get<std::shared_ptr<const std::string>>(data_);
}

const List& Value::as_list() const {
  if (!is_list()) wrong_kind(*this, "a list");
  return *std::get<Sequence>(data_).list;
}

const Dict& Value::as_dict() const {
  if (!is_dict()) wrong_kind(*this, "a mapping");
  return *std::get<Mapping>(data_).dict;
}

const Function& Value::as_function() const {
  if (!is_function()) wrong_kind(*this, "a function");
  return *std::get<std::shared_ptr<const Function>>(data_);
}

Object& Value::as_object() const {
  if (!is_object()) wrong_kind(*this, "a namespace");
  return *std::get<std::shared_ptr<Object>>(data_);
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_bool()) return std::get<bool>(data_);
  if (is_number()) return as_float() != 0;
  if (is_string()) return !as_string().empty();
  if (is_list()) return !as_list().empty();
  if (is_dict()) return !as_dict().entries.empty();
  return true;
}

std::string Value::type_name() const {
  constexpr const char* kNames[] = {"undefined", "NoneType", "bool", "int",    "float",
                                    "str",       "list",     "dict", "object", "function"};
  return is_tuple() ? "tuple" : kNames[data_.index()];
}

std::string Value::text() const {
  if (is_undefined()) return "";
  if (is_none()) return "None";
  if (is_bool()) return truth() ? "True" : "False";
  if (is_int()) return std::to_string(as_int());
  if (is_float()) return text_of(as_float());
  if (is_string()) return as_string();
  if (is_list() || is_dict()) return repr();
  return "<" + type_name() + ">";
}

std::string Value::repr() const {
  if (is_string()) return quoted(as_string());
  if (is_list()) {
    const List& list = as_list();
    const char* close = !is_tuple() ? "]" : list.size() == 1 ? ",)" : ")";
    return joined(list.size(), is_tuple() ? "(" : "[", close, [&](size_t i) { return list[i].repr(); });
  }
  if (is_dict()) {
    const auto& entries = as_dict().entries;
    return joined(entries.size(), "{", "}",
                  [&](size_t i) { return entries[i].first.repr() + ": " + entries[i].second.repr(); });
  }
  return is_undefined() ? "Undefined" : text();
}

List Value::elements() const {
  if (is_undefined()) return {};
  if (is_list()) return as_list();
  List list;
  if (is_dict()) {
    for (const auto& entry : as_dict().entries) list.push_back(entry.first);
  } else if (is_string()) {
    const std::string& text = as_string();
    for (size_t at = 0; at < text.size();) {
      const size_t end = next_character(text, at);
      list.emplace_back(std::string_view(text).substr(at, end - at));
      at = end;
    }
  } else {
    fail("a value of type " + type_name() + " cannot be gone through");
  }
  return list;
}

int64_t Value::length() const {
  if (is_undefined()) return 0;
  if (is_string()) return static_cast<int64_t>(count_characters(as_string()));
  if (is_list()) return static_cast<int64_t>(as_list().size());
  if (is_dict()) return static_cast<int64_t>(as_dict().entries.size());
  fail("a value of type " + type_name() + " has no length");
}

bool operator==(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.as_float() == b.as_float();
    return a.as_int() == b.as_int();
  }
  if (a.data_.index() != b.data_.index()) return false;
  if (a.is_string()) return a.as_string() == b.as_string();
  if (a.is_list()) return a.is_tuple() == b.is_tuple() && a.as_list() == b.as_list();
  if (a.is_dict()) {
    const auto& entries = a.as_dict().entries;
    if (entries.size() != b.as_dict().entries.size()) return false;
    return std::all_of(entries.begin(), entries.end(), [&](const auto& entry) {
      const Value* other = b.as_dict().find(entry.first);
      return other && *other == entry.second;
    });
  }
  if (a.is_object()) return &a.as_object() == &b.as_object();
  if (a.is_function()) return &a.as_function() == &b.as_function();
  return true;  // undefined or none, both
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.as_float() < b.as_float();
    return a.as_int() < b.as_int();
  }
  if (a.is_string() && b.is_string()) return a.as_string() < b.as_string();  // UTF-8 keeps the order of code points
  if (a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple())
    return std::lexicographical_compare(a.as_list().begin(), a.as_list().end(), b.as_list().begin(), b.as_list().end(),
                                        less);
  fail("values of types " + a.type_name() + " and " + b.type_name() + " have no order");
}

bool contains(const Value& container, const Value& element) {
  if (container.is_string()) return container.as_string().find(element.as_string()) != std::string::npos;
  if (container.is_dict()) return container.as_dict().find(element) != nullptr;
  const List list = container.elements();
  return std::find(list.begin(), list.end(), element) != list.end();
}

std::string dump_json(const Value& value, const JsonStyle& style) { return JsonWriter(style).write(value, 0); }

size_t space_at_front(std::string_view text) {
  const size_t size = utf8_character(text);
  if (size == 0) return 0;
  const char32_t point = code_point(text.substr(0, size));
  return is_white_space(point) || (point >= 0x1c && point <= 0x1f) ? size : 0;
}

size_t space_at_end(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0 && (static_cast<unsigned char>(text[begin - 1]) & 0xc0) == 0x80) --begin;
  return begin > 0 ? space_at_front(text.substr(begin - 1)) : 0;
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace choir::text::jinja
