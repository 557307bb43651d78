#include "text/base64.h"

#include <cstdint>

#include "base/error.h"

namespace choir::text {
namespace {

constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

std::string base64(std::string_view bytes) {
  std::string letters;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(c);
    for (count += 8; count >= 6; count -= 6) letters += kLetters[bits >> (count - 6) & 63];
  }
  if (count > 0) letters += kLetters[bits << (6 - count) & 63];
  while (letters.size() % 4 != 0) letters += '=';
  return letters;
}

std::string decode_base64(std::string_view letters, const std::string& where) {
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : letters.substr(0, letters.find('='))) {
    const size_t value = kLetters.find(c);
    if (value == std::string_view::npos)
      base::input_error("not base64", where, "the file is damaged; fetch or write it again");
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xff);
  }
  return bytes;
}

}  // namespace choir::text
