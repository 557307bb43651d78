#include "text/byte_level.h"

#include <doctest/doctest.h>

#include <set>

#include "text/test_support.h"

namespace choir::text {

// The letters are those of GPT-2's published vocabulary: "Ġ" for the blank, "Ċ" for the newline, "ł" for byte 160.
TEST_CASE("bytes have the letters of GPT-2") {
  CHECK(byte_level_name(" the\n\t\r") == "ĠtheĊĉč");
  CHECK(byte_level_name(std::string(1, '\0')) == "Ā");
  CHECK(byte_level_name("\x7f") == "ġ");
  CHECK(byte_level_name("\x80") == "Ģ");
  CHECK(byte_level_name("\xa0") == "ł");
  CHECK(byte_level_name("\xad") == "Ń");
  CHECK(byte_level_name("\xa1\xac\xae\xff") == "¡¬®ÿ");
  CHECK(byte_level_name("é") == "Ã©");
}

TEST_CASE("every byte has its own letter, and the way back finds it") {
  std::set<std::string> letters;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    letters.insert(byte_level_name(text));
    CHECK(bytes_of_byte_level(byte_level_name(text)) == text);
  }
  CHECK(letters.size() == 256);
}

TEST_CASE("letters that stand for no byte have no bytes") {
  for (const char* name : {" ", "a b", "\n", "\xc2\xa0", "ń", "漢", "\xff", "a\xc4"})
    CHECK_FALSE(bytes_of_byte_level(name).has_value());
}

}  // namespace choir::text
