#include "report/lines.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/mapped_file.h"

namespace choir::report {
namespace {

constexpr const char* kHint = "correct the file, or remove the damaged lines";

double number(const io::Json& value, const std::string& where) {
  if (value.is_null()) return NAN;
  if (!value.is_number()) base::input_error("not a number", where, kHint);
  return value.get<double>();
}

// Whether a last line without its newline is one, and not what a crash left of one.
bool whole(std::string_view line) { return io::Json::accept(line); }

const io::Json& array_at(const io::Json& value, const std::string& where) {
  if (!value.is_array()) base::input_error("not an array", where, kHint);
  return value;
}

}  // namespace

void for_each_line(const std::string& path, const std::function<void(const io::Json&, const std::string&)>& take) {
  const base::MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  size_t begin = 0;
  for (int number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    const std::string where = path + ": line " + std::to_string(number);
    begin = end + 1;
    if (line.empty() || (end == text.size() && !whole(line))) continue;
    const io::Json object = io::parse_json(line, where);
    if (!object.is_object()) base::input_error("not a JSON object", where, kHint);
    take(object, where);
  }
}

double number_or_nan(const io::Json& object, const std::string& key, const std::string& where) {
  const auto found = object.find(key);
  return found == object.end() ? NAN : number(*found, where + ": field " + key);
}

std::vector<double> numbers(const io::Json& array, const std::string& where) {
  std::vector<double> result;
  for (const io::Json& value : array_at(array, where)) result.push_back(number(value, where));
  return result;
}

std::vector<std::vector<double>> rows(const io::Json& array, const std::string& where) {
  std::vector<std::vector<double>> result;
  for (const io::Json& row : array_at(array, where)) result.push_back(numbers(row, where));
  return result;
}

}  // namespace choir::report
