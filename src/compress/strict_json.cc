#include "compress/strict_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace choir::compress {

void only_keys(const io::Json& object, std::initializer_list<std::string_view> keys, const std::string& where) {
  if (!object.is_object()) base::input_error("not a JSON object", where, "write { ... } here");
  std::string known;
  for (const std::string_view key : keys) known += (known.empty() ? "" : ", ") + std::string(key);
  for (const auto& [key, value] : object.items())
    if (std::ranges::find(keys, key) == keys.end())
      base::input_error("an unknown key \"" + key.substr(0, 40) + '"', where, "known: " + known);
}

const io::Json& array_at(const io::Json& object, const std::string& key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array())
    base::input_error("an array is missing", where + ": field \"" + key + '"', "write [ ... ] there");
  return *found;
}

std::vector<int> numbers_at(const io::Json& object, const std::string& key, int least, int most,
                            const std::string& where) {
  std::vector<int> numbers;
  for (const io::Json& entry : array_at(object, key, where)) {
    const bool whole = entry.is_number_integer();
    if (!whole || entry < least || entry > most)
      base::input_error("entry " + std::to_string(numbers.size()) + " is wrong", where + ": field \"" + key + '"',
                        "it must be a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    numbers.push_back(entry.get<int>());
  }
  return numbers;
}

}  // namespace choir::compress
