#include "text/utf8.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <string>

namespace choir::text {
namespace {

// Independent reference: decode by bit patterns, then refuse what RFC 3629 forbids.
size_t reference_character(const std::string& text) {
  const auto byte = [&](size_t i) -> uint32_t { return static_cast<unsigned char>(text[i]); };
  if (text.empty()) return 0;
  const size_t size = byte(0) < 0x80             ? 1
                      : (byte(0) & 0xe0) == 0xc0 ? 2
                      : (byte(0) & 0xf0) == 0xe0 ? 3
                      : (byte(0) & 0xf8) == 0xf0 ? 4
                                                 : 0;
  if (size == 0 || text.size() < size) return 0;
  uint32_t code = size == 1 ? byte(0) : byte(0) & (0x7fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < least[size] || surrogate || code > 0x10ffff ? 0 : size;
}

}  // namespace

TEST_CASE("a character is what RFC 3629 says, for all first and second bytes") {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string text = {static_cast<char>(first), static_cast<char>(second), '\x80', '\xbf'};
      CAPTURE(first);
      CAPTURE(second);
      REQUIRE(utf8_character(text) == reference_character(text));
      REQUIRE(utf8_character(text.substr(0, 2)) == reference_character(text.substr(0, 2)));
    }
  }
}

TEST_CASE("the valid prefix ends before the first bad byte") {
  CHECK(valid_utf8_prefix("") == 0);
  CHECK(valid_utf8_prefix("aé漢😀") == 10);
  CHECK(valid_utf8_prefix("ab\xff"
                          "c") == 2);
  CHECK(valid_utf8_prefix("漢\xe6\xbc") == 3);
}

TEST_CASE("an unfinished character is one that more bytes can complete") {
  CHECK(unfinished_utf8_character("\xe6\xbc"));
  CHECK(unfinished_utf8_character("\xf0\x9f\x98"));
  CHECK(unfinished_utf8_character("\xc3"));
  CHECK_FALSE(unfinished_utf8_character(""));
  CHECK_FALSE(unfinished_utf8_character("a"));
  CHECK_FALSE(unfinished_utf8_character("漢"));
  CHECK_FALSE(unfinished_utf8_character("\xed\xa0"));
  CHECK_FALSE(unfinished_utf8_character("\xe6x"));
  CHECK_FALSE(unfinished_utf8_character("\x80"));
}

}  // namespace choir::text
