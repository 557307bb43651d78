// The values that a template computes with: those of Python, as far as Jinja shows them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace choir::text::jinja {

class Value;
using List = std::vector<Value>;

// In the order in which they were put in.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, const Value& value);
};

// The arguments of a call: f(a, b, c=d).
struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;

  // The i-th positional one, or the one of that name; undefined when it is not given.
  Value get(size_t i, std::string_view name) const;
  Value by_name(std::string_view name) const;
};

using Function = std::function<Value(const Arguments&)>;

// Something with attributes that are not items: a namespace, the loop.
class Object {
 public:
  virtual ~Object() = default;
  virtual Value attribute(std::string_view name) const = 0;
  virtual bool set(const std::string&, const Value&) { return false; }  // false: attributes are not assigned to
};

// How large a value is when it is written out, where what is shared counts each time.
struct Extent {
  int depth = 0;       // of lists and mappings
  int64_t weight = 1;  // about one for each part, and for each 16 bytes of strings
};

// What goes wrong while a template runs; the runner adds the line.
struct Fault {
  std::string what;
  bool refusal = false;  // the template itself says so
};

[[noreturn]] void fail(const std::string& what);

class Value {
 public:
  struct Undefined {
    std::string name;
  };
  struct None {};

  Value() : data_(Undefined{}) {}
  Value(None none) : data_(none) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string text) : data_(std::make_shared<const std::string>(std::move(text))) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(List list, bool tuple = false);  // both fail when the extent is too large
  Value(Dict dict);
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}
  Value(Function function) : data_(std::make_shared<const Function>(std::move(function))) {}

  static Value undefined(std::string name);
  static Value from_json(const nlohmann::ordered_json& json);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const std::string>>(data_); }
  bool is_list() const { return std::holds_alternative<Sequence>(data_); }
  bool is_tuple() const { return is_list() && std::get<Sequence>(data_).tuple; }
  bool is_dict() const { return std::holds_alternative<Mapping>(data_); }
  bool is_object() const { return std::holds_alternative<std::shared_ptr<Object>>(data_); }
  bool is_function() const { return std::holds_alternative<std::shared_ptr<const Function>>(data_); }

  const std::string& undefined_name() const;
  int64_t weight() const { return extent().weight; }

  // Each fails when the value is of another kind. as_int takes booleans, as_float all numbers.
  int64_t as_int() const;
  double as_float() const;
  const std::string& as_string() const;
  const List& as_list() const;
  const Dict& as_dict() const;
  const Function& as_function() const;
  Object& as_object() const;

  bool truth() const;
  std::string type_name() const;  // of Python, for messages
  std::string text() const;       // what {{ value }} writes
  std::string repr() const;       // what it looks like inside a list

  // The elements of what a loop can go through: characters of a string, keys of a dict.
  List elements() const;
  int64_t length() const;

  // Equality of any two values, and the order of numbers, strings and lists; fails on others.
  friend bool operator==(const Value& a, const Value& b);
  friend bool less(const Value& a, const Value& b);

 private:
  struct Sequence {
    std::shared_ptr<const List> list;
    bool tuple;
    Extent extent;
  };
  struct Mapping {
    std::shared_ptr<const Dict> dict;
    Extent extent;
  };

  Extent extent() const;

  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>, Sequence, Mapping,
               std::shared_ptr<Object>, std::shared_ptr<const Function>>
      data_;
};

bool contains(const Value& container, const Value& element);

// json.dumps of Python.
struct JsonStyle {
  int indent = -1;  // blanks a level; -1: all in one line
  std::string comma = ", ", colon = ": ";
  bool sort_keys = false, ascii = false;
};
std::string dump_json(const Value& value, const JsonStyle& style);

// A text that grows by a piece; fails when it becomes larger than kMostText.
inline constexpr size_t kMostText = size_t{16} << 20;
void append_text(std::string& text, std::string_view piece);

// How long the character of white space at the front of a text is, 0 where none stands; what Python takes for one.
size_t space_at_front(std::string_view text);
size_t space_at_end(std::string_view text);

// Code points of valid UTF-8.
size_t count_characters(std::string_view text);

}  // namespace choir::text::jinja
