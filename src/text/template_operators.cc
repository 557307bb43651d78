// Arithmetic and slices.
#include <cmath>

#include "text/template_run.h"

namespace choir::text::jinja {
namespace {

constexpr int64_t kMostElements = 1 << 20;

Value repeated(const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (value.is_string()) {
    const std::string& text = value.as_string();
    if (!text.empty() && times > static_cast<int64_t>(kMostText / text.size())) fail("a text is larger than 16 MiB");
    std::string result;
    for (int64_t i = 0; i < times && !text.empty(); ++i) result += text;
    return result;
  }
  const List& list = value.as_list();
  if (!list.empty() && times > kMostElements / static_cast<int64_t>(list.size())) fail("a list is too long");
  List result;
  for (int64_t i = 0; i < times && !list.empty(); ++i) result.insert(result.end(), list.begin(), list.end());
  return {std::move(result), value.is_tuple()};
}

// Python's quotient and remainder: the remainder has the sign of the divisor.
int64_t floor_quotient(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a % b < 0) != (b < 0) ? quotient - 1 : quotient;
}

double floor_remainder(double a, double b) {
  const double remainder = std::fmod(a, b);
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

Value integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) fail("a number is too large");
    if (result == 0 || result == 1) break;
    if (result == -1) return static_cast<int64_t>(exponent % 2 == 1 ? -1 : 1);
  }
  return result;
}

Value calculate_whole(const std::string& name, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (name == "-") overflow = __builtin_sub_overflow(a, b, &result);
  if (name == "*") overflow = __builtin_mul_overflow(a, b, &result);
  if (name == "+") overflow = __builtin_add_overflow(a, b, &result);
  if (name == "//" || name == "%") {
    if (b == 0) fail("a division by zero");
    overflow = b == -1 && a == INT64_MIN;
    if (!overflow) result = name == "%" ? a - floor_quotient(a, b) * b : floor_quotient(a, b);
  }
  if (name == "**")
    return b < 0 ? Value(std::pow(static_cast<double>(a), static_cast<double>(b))) : integer_power(a, b);
  if (overflow) fail("a number is too large");
  return result;
}

Value calculate_real(const std::string& name, double a, double b) {
  if (name == "+") return a + b;
  if (name == "-") return a - b;
  if (name == "*") return a * b;
  if (name == "**") return std::pow(a, b);
  if (b == 0) fail("a division by zero");
  if (name == "/") return a / b;
  return name == "//" ? std::floor(a / b) : floor_remainder(a, b);
}

}  // namespace

Value add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    std::string text = a.as_string();
    append_text(text, b.as_string());
    return text;
  }
  if (a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple()) {
    List list = a.as_list();
    list.insert(list.end(), b.as_list().begin(), b.as_list().end());
    return {std::move(list), a.is_tuple()};
  }
  return calculate("+", a, b);
}

Value calculate(const std::string& name, const Value& a, const Value& b) {
  const auto counts = [](const Value& value) { return value.is_int() || value.is_bool(); };
  if (name == "*" && (a.is_string() || a.is_list()) && counts(b)) return repeated(a, b.as_int());
  if (name == "*" && (b.is_string() || b.is_list()) && counts(a)) return repeated(b, a.as_int());
  for (const Value* side : {&a, &b})
    if (side->is_undefined()) fail("'" + side->undefined_name() + "' is undefined and stands beside " + name);
  if (!a.is_number() || !b.is_number())
    fail("'" + name + "' between values of types " + a.type_name() + " and " + b.type_name());
  if (a.is_float() || b.is_float() || name == "/") return calculate_real(name, a.as_float(), b.as_float());
  return calculate_whole(name, a.as_int(), b.as_int());
}

Value slice(const Value& value, const Value& begin, const Value& end, const Value& step) {
  if (value.is_undefined()) fail("'" + value.undefined_name() + "' is undefined and cannot be sliced");
  if (!value.is_string() && !value.is_list()) fail("a value of type " + value.type_name() + " cannot be sliced");
  const auto given = [](const Value& part) { return !part.is_undefined() && !part.is_none(); };
  const List all = value.elements();
  const auto size = static_cast<int64_t>(all.size());
  const int64_t by = given(step) ? step.as_int() : 1;
  if (by == 0) fail("a slice with the step 0");
  // Places before the beginning and behind the end count as those two.
  const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? size : size - 1;
  const auto place = [&](const Value& part, int64_t fallback) {
    if (!given(part)) return fallback;
    const int64_t index = part.as_int() < 0 ? std::max(part.as_int(), -size - 1) + size : part.as_int();
    return std::min(std::max(index, lowest), highest);
  };
  const int64_t first = place(begin, by > 0 ? lowest : highest), last = place(end, by > 0 ? highest : lowest);
  List result;
  for (int64_t i = first; by > 0 ? i < last : i > last;) {
    result.push_back(all[static_cast<size_t>(i)]);
    if (by > 0 ? by >= last - i : by <= last - i) break;
    i += by;
  }
  return value.is_string() ? joined(Value(result), "") : Value(std::move(result), value.is_tuple());
}

}  // namespace choir::text::jinja
