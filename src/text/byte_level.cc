#include "text/byte_level.h"

#include <array>

#include "text/utf8.h"

namespace choir::text {
namespace {

// Bytes that are visible letters of Latin-1 keep their code point; the others take 256, 257, ... in order
// (bytes_to_unicode of openai/gpt-2).
constexpr bool keeps_its_letter(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr int kBytes = 256;
constexpr int kLetters = kBytes + 68;  // 68 bytes are not visible letters

struct Table {
  std::array<int, kBytes> letter_of{};  // code point of a byte
  std::array<int, kLetters> byte_of{};  // byte of a code point, or -1
};

constexpr Table make_table() {
  Table table;
  table.byte_of.fill(-1);
  int next = kBytes;
  for (int byte = 0; byte < kBytes; ++byte) {
    const int letter = keeps_its_letter(byte) ? byte : next++;
    table.letter_of[byte] = letter;
    table.byte_of[letter] = byte;
  }
  return table;
}

constexpr Table kTable = make_table();

// Code point of a character of one or two bytes, -1 for longer ones, which stand for no byte.
int letter_at(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 1) return byte(0);
  return character.size() == 2 ? (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f) : -1;
}

}  // namespace

std::string byte_level_name(std::string_view bytes) {
  std::string name;
  for (const char c : bytes) {
    const int letter = kTable.letter_of[static_cast<unsigned char>(c)];
    if (letter < 0x80) {
      name += static_cast<char>(letter);
    } else {
      name += static_cast<char>(0xc0 | letter >> 6);
      name += static_cast<char>(0x80 | (letter & 0x3f));
    }
  }
  return name;
}

std::optional<std::string> bytes_of_byte_level(std::string_view name) {
  std::string bytes;
  while (const size_t size = utf8_character(name)) {
    const int letter = letter_at(name.substr(0, size));
    if (letter < 0 || letter >= kLetters || kTable.byte_of[letter] < 0) return std::nullopt;
    bytes += static_cast<char>(kTable.byte_of[letter]);
    name.remove_prefix(size);
  }
  if (!name.empty()) return std::nullopt;
  return bytes;
}

}  // namespace choir::text
