// What the tests of this room share: fixtures that may be absent, random bytes, and a small tokenizer.json.
#pragma once

#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "text/byte_level.h"

namespace choir::text {

inline std::string shared_file(const std::string& name) {
  return std::string(CHOIR_SOURCE_DIR) + "/../shared/data/" + name;
}

inline std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

inline std::string random_bytes(base::Rng& rng, size_t size) {
  std::string text;
  while (text.size() < size) text += static_cast<char>(rng.below(256));
  return text;
}

// Names of the 256 bytes in order.
inline std::vector<std::string> byte_names() {
  std::vector<std::string> names;
  for (int byte = 0; byte < 256; ++byte) names.push_back(byte_level_name(std::string(1, static_cast<char>(byte))));
  return names;
}

}  // namespace choir::text
