// Files of one JSON object a line, and numbers that may be null.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "io/json.h"

namespace choir::report {

// Calls `take` with each line's object and its place for messages. A last line that a crash cut short is passed over.
// Throws Error (input) naming file and line when the file is missing or another line is damaged.
void for_each_line(const std::string& path, const std::function<void(const io::Json&, const std::string&)>& take);

// The number under `key`; NaN where it is null or missing, since a writer of JSON has no other word for NaN. Throws
// Error (input) when it is something else.
double number_or_nan(const io::Json& object, const std::string& key, const std::string& where);

// An array of numbers and nulls, or one of such arrays. Throws Error (input) when it is something else.
std::vector<double> numbers(const io::Json& array, const std::string& where);
std::vector<std::vector<double>> rows(const io::Json& array, const std::string& where);

}  // namespace choir::report
