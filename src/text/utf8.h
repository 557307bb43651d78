// What is a character in UTF-8 (RFC 3629: shortest forms only, no surrogates, nothing above U+10FFFF).
#pragma once

#include <cstddef>
#include <string_view>

namespace choir::text {

// Bytes of the character at the front of the text; 0 when no valid and complete one stands there.
size_t utf8_character(std::string_view text);

// Bytes of the longest valid run at the front of the text.
size_t valid_utf8_prefix(std::string_view text);

// Whether the text is the beginning of one character and more bytes could complete it.
bool unfinished_utf8_character(std::string_view text);

}  // namespace choir::text
