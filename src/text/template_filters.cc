// Filters and tests.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "text/normalizer.h"
#include "text/template_builtins.h"
#include "text/utf8.h"

namespace choir::text::jinja {
namespace {

using A = const Arguments&;
using V = const Value&;
using Filter = Value (*)(V value, A arguments);

// a.b.0 of a value: the way to an element that filters such as map(attribute=...) take.
Value at_path(Value value, const Value& path) {
  if (path.is_int()) return item_of(value, path);
  std::string_view rest = path.as_string();
  while (true) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view name = rest.substr(0, dot);
    int64_t index = 0;
    const auto [end, fault] = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool number = fault == std::errc() && end == name.data() + name.size() && !name.empty();
    value = item_of(value, number ? Value(index) : Value(name));
    if (dot == rest.size()) return value;
    rest.remove_prefix(dot + 1);
  }
}

Value of_attribute(V value, const Value& attribute) {
  return attribute.is_undefined() || attribute.is_none() ? value : at_path(value, attribute);
}

bool wanted(const Value& flag) { return flag.truth(); }

Value folded(V value, bool case_sensitive) {
  return !case_sensitive && value.is_string() ? Value(lowercase(value.as_string())) : value;
}

Value filter_default(V value, A a) {
  const Value fallback = a.get(0, "default_value");
  const bool missing = value.is_undefined() || (wanted(a.get(1, "boolean")) && !value.truth());
  return !missing ? value : fallback.is_undefined() ? Value("") : fallback;
}

Value filter_first(V value, A) {
  const List all = value.elements();
  return all.empty() ? Value::undefined("first of nothing") : all.front();
}

Value filter_last(V value, A) {
  const List all = value.elements();
  return all.empty() ? Value::undefined("last of nothing") : all.back();
}

Value filter_join(V value, A a) {
  const Value separator = a.get(0, "d"), attribute = a.get(1, "attribute");
  List parts;
  for (const Value& part : value.elements()) parts.push_back(of_attribute(part, attribute));
  return joined(Value(parts), separator.is_undefined() ? "" : separator.text());
}

void refuse_undefined(V value) {
  if (value.is_undefined()) fail("'" + value.undefined_name() + "' is undefined and used as a number");
}

Value filter_int(V value, A a) {
  refuse_undefined(value);
  const Value given = a.get(0, "default"), fallback = given.is_undefined() ? Value(int64_t{0}) : given;
  if (value.is_float()) {
    if (!(std::fabs(value.as_float()) < 9e18)) return fallback;
    return static_cast<int64_t>(value.as_float());
  }
  if (value.is_number()) return value.as_int();
  if (!value.is_string()) return fallback;
  std::string text(stripped(value.as_string(), {}, Side::kBoth));
  text.erase(0, text.starts_with('+') ? 1 : 0);
  double number = 0;
  int64_t whole = 0;
  const char* end = text.data() + text.size();
  if (auto [stop, fault] = std::from_chars(text.data(), end, whole); fault == std::errc() && stop == end) return whole;
  if (auto [stop, fault] = std::from_chars(text.data(), end, number); fault == std::errc() && stop == end)
    return std::fabs(number) < 9e18 ? Value(static_cast<int64_t>(number)) : fallback;
  return fallback;
}

Value filter_float(V value, A a) {
  refuse_undefined(value);
  const Value given = a.get(0, "default"), fallback = given.is_undefined() ? Value(0.0) : given;
  if (value.is_number()) return value.as_float();
  if (!value.is_string()) return fallback;
  const std::string text(stripped(value.as_string(), {}, Side::kBoth));
  double number = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
  return fault == std::errc() && end == text.data() + text.size() && !text.empty() ? Value(number) : fallback;
}

Value filter_abs(V value, A) {
  if (value.is_float()) return std::fabs(value.as_float());
  return value.as_int() < 0 ? Value(-value.as_int()) : Value(value.as_int());
}

Value filter_round(V value, A a) {
  const Value digits = a.get(0, "precision"), method = a.get(1, "method");
  const double scale = std::pow(10.0, digits.is_undefined() ? 0.0 : static_cast<double>(digits.as_int()));
  const std::string how = method.is_undefined() ? "common" : method.as_string();
  if (!value.is_float() && how == "common" && scale >= 1) return value.as_int();
  const double scaled = value.as_float() * scale;
  if (how == "ceil") return std::ceil(scaled) / scale;
  return (how == "floor" ? std::floor(scaled) : std::nearbyint(scaled)) / scale;
}

Value filter_reverse(V value, A) {
  List all = value.elements();
  std::reverse(all.begin(), all.end());
  return value.is_string() ? joined(Value(all), "") : Value(all);
}

Value filter_items(V value, A) {
  List pairs;
  if (value.is_undefined()) return pairs;
  for (const auto& [key, item] : value.as_dict().entries) pairs.push_back(Value(List{key, item}, true));
  return pairs;
}

Value filter_dictsort(V value, A a) {
  const bool sensitive = wanted(a.get(0, "case_sensitive")), reverse = wanted(a.get(2, "reverse"));
  const Value by = a.get(1, "by");
  const bool by_value = by.is_string() && by.as_string() == "value";
  auto entries = value.as_dict().entries;
  std::stable_sort(entries.begin(), entries.end(), [&](const auto& left, const auto& right) {
    const auto &x = reverse ? right : left, &y = reverse ? left : right;
    return less(folded(by_value ? x.second : x.first, sensitive), folded(by_value ? y.second : y.first, sensitive));
  });
  List pairs;
  for (const auto& [key, item] : entries) pairs.push_back(Value(List{key, item}, true));
  return pairs;
}

Value filter_sort(V value, A a) {
  const bool reverse = wanted(a.get(0, "reverse")), sensitive = wanted(a.get(1, "case_sensitive"));
  const Value attribute = a.get(2, "attribute");
  List all = value.elements();
  std::stable_sort(all.begin(), all.end(), [&](const Value& left, const Value& right) {
    const Value x = folded(of_attribute(left, attribute), sensitive);
    const Value y = folded(of_attribute(right, attribute), sensitive);
    return reverse ? less(y, x) : less(x, y);
  });
  return all;
}

Value filter_unique(V value, A a) {
  const bool sensitive = wanted(a.get(0, "case_sensitive"));
  const Value attribute = a.get(1, "attribute");
  List kept, seen;
  for (const Value& item : value.elements()) {
    Value key = folded(of_attribute(item, attribute), sensitive);
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(std::move(key));
    kept.push_back(item);
  }
  return kept;
}

Value filter_sum(V value, A a) {
  const Value start = a.get(1, "start");
  double real = start.is_undefined() ? 0 : start.as_float();
  int64_t whole = start.is_int() ? start.as_int() : 0;
  bool is_real = start.is_float();
  for (const Value& item : value.elements()) {
    const Value number = of_attribute(item, a.get(0, "attribute"));
    is_real |= number.is_float();
    real += number.as_float();
    if (!number.is_float() && __builtin_add_overflow(whole, number.as_int(), &whole)) fail("a number is too large");
  }
  return is_real ? Value(real) : Value(whole);
}

Value extreme(V value, A a, bool greatest) {
  const Value attribute = a.get(1, "attribute");
  const bool sensitive = wanted(a.get(0, "case_sensitive"));
  const List all = value.elements();
  if (all.empty()) return Value::undefined("the extreme of nothing");
  const auto order = [&](const Value& left, const Value& right) {
    return less(folded(of_attribute(left, attribute), sensitive), folded(of_attribute(right, attribute), sensitive));
  };
  return greatest ? *std::max_element(all.begin(), all.end(), order) : *std::min_element(all.begin(), all.end(), order);
}

Value filter_indent(V value, A a) {
  const Value width = a.get(0, "width");
  const std::string blanks =
      width.is_string()
          ? width.as_string()
          : std::string(static_cast<size_t>(std::clamp<int64_t>(width.is_undefined() ? 4 : width.as_int(), 0, 1024)),
                        ' ');
  const bool first = wanted(a.get(1, "first")), blank_lines = wanted(a.get(2, "blank"));
  std::string result;
  std::string_view rest = value.as_string();
  for (bool at_first = true;; at_first = false) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    if (at_first ? first : blank_lines || !line.empty()) append_text(result, blanks);
    append_text(result, line);
    if (end == rest.size()) return result;
    result += '\n';
    rest.remove_prefix(end + 1);
  }
}

Value filter_title(V value, A) {
  std::string result;
  bool begins = true;
  const std::string text = value.text();
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_character(text, at);
    const std::string character = text.substr(at, end - at);
    result += begins ? uppercase(character) : lowercase(character);
    begins =
        is_white_space(code_point(character)) || std::string_view("-({[<").find(character) != std::string_view::npos;
    at = end;
  }
  return result;
}

Value filter_escape(V value, A) {
  std::string result;
  for (const char c : value.text()) {
    const char* name = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '\'' ? "&#39;" : "&#34;";
    append_text(result, std::string_view("&<>'\"").find(c) == std::string_view::npos ? std::string(1, c) : name);
  }
  return result;
}

Value filter_tojson(V value, A a) {
  JsonStyle style;
  const Value indent = a.get(0, "indent"), separators = a.by_name("separators");
  if (indent.is_int()) {
    style.indent = static_cast<int>(std::clamp<int64_t>(indent.as_int(), 0, 64));
    style.comma = ",";
  }
  if (separators.is_list() && separators.as_list().size() == 2) {
    style.comma = separators.as_list()[0].as_string();
    style.colon = separators.as_list()[1].as_string();
  }
  style.sort_keys = wanted(a.by_name("sort_keys"));
  style.ascii = wanted(a.by_name("ensure_ascii"));
  return dump_json(value, style);
}

Value filter_batch(V value, A a) {
  const int64_t size = a.get(0, "linecount").as_int();
  const Value fill = a.get(1, "fill_with");
  if (size < 1) fail("batches of no elements");
  List batches, batch;
  for (const Value& item : value.elements()) {
    batch.push_back(item);
    if (static_cast<int64_t>(batch.size()) == size) batches.emplace_back(std::exchange(batch, {}));
  }
  while (!batch.empty() && !fill.is_undefined() && static_cast<int64_t>(batch.size()) < size) batch.push_back(fill);
  if (!batch.empty()) batches.emplace_back(batch);
  return batches;
}

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> kFilters = {
      {"abs", filter_abs},
      {"batch", filter_batch},
      {"capitalize", [](V v, A) { return Value(capitalized(v.text())); }},
      {"count", [](V v, A) { return Value(v.length()); }},
      {"d", filter_default},
      {"default", filter_default},
      {"dictsort", filter_dictsort},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"first", filter_first},
      {"float", filter_float},
      {"indent", filter_indent},
      {"int", filter_int},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"length", [](V v, A) { return Value(v.length()); }},
      {"list", [](V v, A) { return Value(v.elements()); }},
      {"lower", [](V v, A) { return Value(lowercase(v.text())); }},
      {"max", [](V v, A a) { return extreme(v, a, true); }},
      {"min", [](V v, A a) { return extreme(v, a, false); }},
      {"replace",
       [](V v, A a) { return Value(replaced(v.text(), a.get(0, "old"), a.get(1, "new"), a.get(2, "count"))); }},
      {"reverse", filter_reverse},
      {"round", filter_round},
      {"safe", [](V v, A) { return v; }},
      {"sort", filter_sort},
      {"string", [](V v, A) { return Value(v.text()); }},
      {"sum", filter_sum},
      {"title", filter_title},
      {"tojson", filter_tojson},
      {"trim", [](V v, A a) { return Value(stripped(v.text(), a.get(0, "chars"), Side::kBoth)); }},
      {"unique", filter_unique},
      {"upper", [](V v, A) { return Value(uppercase(v.text())); }},
  };
  return kFilters;
}

// select, reject, selectattr and rejectattr: the test by name, its arguments behind it.
Value choose(std::string_view name, V value, A a) {
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  Arguments rest = a;
  const auto shift = [&]() -> Value {
    if (rest.positional.empty()) return {};
    Value first = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return first;
  };
  const Value attribute = by_attribute ? shift() : Value(), test = shift();
  if (by_attribute && attribute.is_undefined()) fail("the name of an attribute is missing");
  List kept;
  if (!value.truth()) return kept;
  for (const Value& item : value.elements()) {
    const Value subject = by_attribute ? at_path(item, attribute) : item;
    const bool passes = test.is_undefined() ? subject.truth() : apply_test(test.as_string(), subject, rest);
    if (passes == keep) kept.push_back(item);
  }
  return kept;
}

// map('filter', ...) or map(attribute='name', default=...).
Value map_all(V value, A a, Meter& meter) {
  List results;
  if (!value.truth()) return results;
  const Value attribute = a.by_name("attribute"), fallback = a.by_name("default");
  for (const Value& item : value.elements()) {
    if (!attribute.is_undefined()) {
      const Value found = at_path(item, attribute);
      results.push_back(found.is_undefined() && !fallback.is_undefined() ? fallback : found);
      continue;
    }
    if (a.positional.empty()) fail("map wants a filter or an attribute");
    Arguments rest{{a.positional.begin() + 1, a.positional.end()}, a.named};
    results.push_back(apply_filter(a.positional[0].as_string(), item, rest, meter));
  }
  return results;
}

bool chooses(std::string_view name) {
  return name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr";
}

using Test = bool (*)(V value, A arguments);

double remainder_of(V value, V divisor) {
  if (divisor.as_float() == 0) fail("a division by zero");
  return std::fmod(value.as_float(), divisor.as_float());
}

const std::map<std::string_view, Test>& tests() {
  static const Test kEqual = [](V v, A a) { return v == a.get(0, "other"); };
  static const Test kUnequal = [](V v, A a) { return !(v == a.get(0, "other")); };
  static const Test kLess = [](V v, A a) { return less(v, a.get(0, "other")); };
  static const Test kGreater = [](V v, A a) { return less(a.get(0, "other"), v); };
  static const Test kAtMost = [](V v, A a) { return !less(a.get(0, "other"), v); };
  static const Test kAtLeast = [](V v, A a) { return !less(v, a.get(0, "other")); };
  static const std::map<std::string_view, Test> kTests = {
      {"!=", kUnequal},
      {"<", kLess},
      {"<=", kAtMost},
      {"==", kEqual},
      {">", kGreater},
      {">=", kAtLeast},
      {"eq", kEqual},
      {"ge", kAtLeast},
      {"greaterthan", kGreater},
      {"gt", kGreater},
      {"equalto", kEqual},
      {"le", kAtMost},
      {"lessthan", kLess},
      {"lt", kLess},
      {"ne", kUnequal},
      {"boolean", [](V v, A) { return v.is_bool(); }},
      {"callable", [](V v, A) { return v.is_function(); }},
      {"defined", [](V v, A) { return !v.is_undefined(); }},
      {"divisibleby", [](V v, A a) { return remainder_of(v, a.get(0, "num")) == 0; }},
      {"even", [](V v, A) { return remainder_of(v, Value(int64_t{2})) == 0; }},
      {"false", [](V v, A) { return v.is_bool() && !v.truth(); }},
      {"float", [](V v, A) { return v.is_float(); }},
      {"in", [](V v, A a) { return contains(a.get(0, "seq"), v); }},
      {"integer", [](V v, A) { return v.is_int(); }},
      {"iterable", [](V v, A) { return v.is_string() || v.is_list() || v.is_dict() || v.is_undefined(); }},
      {"lower", [](V v, A) { return lowercase(v.text()) == v.text() && uppercase(v.text()) != v.text(); }},
      {"mapping", [](V v, A) { return v.is_dict(); }},
      {"none", [](V v, A) { return v.is_none(); }},
      {"number", [](V v, A) { return v.is_number(); }},
      {"odd", [](V v, A) { return std::fabs(remainder_of(v, Value(int64_t{2}))) == 1; }},
      {"sameas", [](V v, A a) { return v.type_name() == a.get(0, "other").type_name() && v == a.get(0, "other"); }},
      {"sequence", [](V v, A) { return v.is_string() || v.is_list() || v.is_dict() || v.is_undefined(); }},
      {"string", [](V v, A) { return v.is_string(); }},
      {"true", [](V v, A) { return v.is_bool() && v.truth(); }},
      {"undefined", [](V v, A) { return v.is_undefined(); }},
      {"upper", [](V v, A) { return uppercase(v.text()) == v.text() && lowercase(v.text()) != v.text(); }},
  };
  return kTests;
}

}  // namespace

bool is_filter(std::string_view name) { return name == "map" || chooses(name) || filters().contains(name); }

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter) {
  meter.charge(1 + value.weight() / 4);
  if (name == "map") return map_all(value, arguments, meter);
  if (chooses(name)) return choose(name, value, arguments);
  const auto found = filters().find(name);
  if (found == filters().end()) fail("there is no filter '" + std::string(name) + "'");
  Value result = found->second(value, arguments);
  meter.charge(result.weight() / 4);
  return result;
}

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) fail("there is no test '" + std::string(name) + "'");
  return found->second(value, arguments);
}

}  // namespace choir::text::jinja
