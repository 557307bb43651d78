// JSON files that come from strangers: read under limits, asked by name and range.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace choir::io {

using Json = nlohmann::json;

inline constexpr size_t kMostJsonDepth = 64;
inline constexpr size_t kMostJsonBytes = size_t{64} << 20;

// Refuses everything that is not exactly one JSON value in UTF-8: trailing bytes, comments, NUL, a key that stands
// twice in one object, more than kMostJsonDepth open brackets, more than kMostJsonBytes. Integers outside 64 bits
// become doubles; numbers beyond the doubles are refused. Throws Error (input) that names `where` and the byte.
Json parse_json(std::string_view text, const std::string& where);
Json read_json(const std::string& path);

// Asks one JSON object for its fields. Borrows the object, which must outlive it. A field that is missing or null takes
// the fallback, and is an error where there is none; who must tell null from missing asks the object itself. A wrong
// type or a value outside [least, most] is always an error. Every error is an Error (input) that names `where`, the
// field and the range.
class Fields {
 public:
  // `where` is the file, or the file and the field that holds the object. Throws when `object` is not an object.
  Fields(const Json& object, std::string where);
  Fields(Json&& object, std::string where) = delete;

  bool has(const std::string& key) const;
  int64_t get_int(const std::string& key, int64_t least, int64_t most, std::optional<int64_t> fallback = {}) const;
  double get_number(const std::string& key, double least, double most, std::optional<double> fallback = {}) const;
  bool get_bool(const std::string& key, std::optional<bool> fallback = {}) const;
  std::string get_string(const std::string& key, std::optional<std::string> fallback = {}) const;
  Fields get_object(const std::string& key) const;

 private:
  const Json* find(const std::string& key) const;
  const Json* find(const std::string& key, bool required) const;
  [[noreturn]] void refuse(const std::string& key, const std::string& wanted) const;

  const Json& object_;
  std::string where_;
};

}  // namespace choir::io
