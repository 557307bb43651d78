// Filters, tests, attributes and methods of template values, with the meaning that Jinja and Python give them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/template_value.h"

namespace choir::text::jinja {

// Bounds the work of one rendering.
class Meter {
 public:
  void charge(int64_t steps) {
    left_ -= steps;
    if (left_ < 0) fail("more than 10 million steps");
  }

 private:
  int64_t left_ = 10'000'000;
};

// value | name(arguments). Fails when there is no such filter.
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter);
bool is_filter(std::string_view name);

// value is name(arguments). Fails when there is no such test.
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments);

// value.name and value[key]; undefined where there is none. Fails on undefined values.
Value attribute_of(const Value& value, std::string_view name);
Value item_of(const Value& value, const Value& key);

// A method of a string, list or mapping; undefined where there is none.
Value method_of(const Value& value, std::string_view name);

// What strings do, shared by filters and methods.
enum class Side { kBoth, kLeft, kRight };
std::string_view stripped(std::string_view text, const Value& characters, Side side);
std::string replaced(const std::string& text, const Value& from, const Value& to, const Value& count);
std::string capitalized(std::string_view text);
Value joined(const Value& list, const std::string& separator);

}  // namespace choir::text::jinja
