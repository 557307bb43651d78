// What the tests of this room share: fixtures that may be absent, random bytes, and a small tokenizer.json.
#pragma once

#include <cstdint>
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

// The texts of llama.cpp's tokenizer fixtures, each ended by a line of its own.
inline std::vector<std::string> fixture_texts(std::string all) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<std::string> texts;
  for (size_t end; (end = all.find(separator)) != std::string::npos; all.erase(0, end + separator.size()))
    texts.push_back(all.substr(0, end));
  return texts;
}

// The ids of one line of their answers.
inline std::vector<int32_t> next_ids(std::istream& lines) {
  std::string line;
  std::getline(lines, line);
  std::istringstream numbers(line);
  std::vector<int32_t> ids;
  for (int32_t id; numbers >> id;) ids.push_back(id);
  return ids;
}

// Names of the 256 bytes in order.
inline std::vector<std::string> byte_names() {
  std::vector<std::string> names;
  for (int byte = 0; byte < 256; ++byte) names.push_back(byte_level_name(std::string(1, static_cast<char>(byte))));
  return names;
}

}  // namespace choir::text
