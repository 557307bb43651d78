#include "text/utf8.h"

#include <algorithm>

namespace choir::text {
namespace {

// What a first byte promises: the bytes of the whole character and the range of the second byte; RFC 3629, section 4.
struct Lead {
  size_t size;
  unsigned char low, high;
};

Lead lead_of(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xc2) return {0, 0, 0};
  if (first < 0xe0) return {2, 0x80, 0xbf};
  if (first == 0xe0) return {3, 0xa0, 0xbf};
  if (first == 0xed) return {3, 0x80, 0x9f};
  if (first < 0xf0) return {3, 0x80, 0xbf};
  if (first == 0xf0) return {4, 0x90, 0xbf};
  if (first < 0xf4) return {4, 0x80, 0xbf};
  if (first == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

// Whether the bytes after the first, as many as are there, are what the first one promises.
bool keeps_promise(const Lead& lead, std::string_view text) {
  for (size_t i = 1; i < std::min(lead.size, text.size()); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool fits = i == 1 ? byte >= lead.low && byte <= lead.high : byte >= 0x80 && byte <= 0xbf;
    if (!fits) return false;
  }
  return true;
}

}  // namespace

size_t utf8_character(std::string_view text) {
  if (text.empty()) return 0;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.size <= text.size() && keeps_promise(lead, text) ? lead.size : 0;
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t end = 0;
  while (const size_t size = utf8_character(text.substr(end))) end += size;
  return end;
}

size_t next_character(std::string_view text, size_t at) {
  return at + std::max<size_t>(1, utf8_character(text.substr(std::min(at, text.size()))));
}

char32_t code_point(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(character[i])); };
  const size_t size = character.size();
  if (size == 1) return byte(0);
  char32_t point = byte(0) & (0x7fu >> size);
  for (size_t i = 1; i < size; ++i) point = point << 6 | (byte(i) & 0x3f);
  return point;
}

void append_utf8(char32_t point, std::string& text) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (point >> shift & 0x3f)); };
  if (point < 0x80) {
    text += static_cast<char>(point);
  } else if (point < 0x800) {
    text += static_cast<char>(0xc0 | point >> 6);
    tail(0);
  } else if (point < 0x10000) {
    text += static_cast<char>(0xe0 | point >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xf0 | point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

bool unfinished_utf8_character(std::string_view text) {
  if (text.empty()) return false;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.size > text.size() && keeps_promise(lead, text);
}

}  // namespace choir::text
