// What the tests of this room share: fixtures that may be absent, random bytes, and a small tokenizer.json.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "text/byte_level.h"
#include "text/sentencepiece_model.h"

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

// The wire format of protobuf.
inline std::string varint(uint64_t number) {
  std::string bytes;
  for (; number >= 0x80; number >>= 7) bytes += static_cast<char>(number | 0x80);
  return bytes + static_cast<char>(number);
}

inline std::string field(uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
inline std::string field(uint64_t number, uint64_t value) { return varint(number << 3) + varint(value); }
inline std::string field(uint64_t number, float value) {
  std::string bytes(4, '\0');
  std::memcpy(bytes.data(), &value, 4);
  return varint(number << 3 | 5) + bytes;
}

// A tokenizer.model.
inline std::string file_of(const SentencePieceModel& model) {
  std::string file;
  for (const auto& token : model.tokens)
    file += field(1, field(1, token.text) + field(2, token.score) + field(3, static_cast<uint64_t>(token.type)));
  file += field(2, field(3, static_cast<uint64_t>(model.kind)) + field(35, uint64_t{model.byte_fallback}));
  return file + field(3, field(3, uint64_t{model.add_dummy_prefix}) + field(4, uint64_t{model.remove_extra_spaces}));
}

}  // namespace choir::text
