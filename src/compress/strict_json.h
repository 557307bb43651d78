// Our own JSON files, in which nothing may stand that is not known.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace choir::compress {

// Each throws Error (input) that names `where` and the field.

void only_keys(const io::Json& object, std::initializer_list<std::string_view> keys, const std::string& where);

// The array under `key`, which must be there.
const io::Json& array_at(const io::Json& object, const std::string& key, const std::string& where);

// Whole numbers from `least` to `most`.
std::vector<int> numbers_at(const io::Json& object, const std::string& key, int least, int most,
                            const std::string& where);

}  // namespace choir::compress
