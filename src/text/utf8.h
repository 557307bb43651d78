// What is a character in UTF-8 (RFC 3629: shortest forms only, no surrogates, nothing above U+10FFFF).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace choir::text {

// Bytes of the character at the front of the text; 0 when no valid and complete one stands there.
size_t utf8_character(std::string_view text);

// Bytes of the longest valid run at the front of the text.
size_t valid_utf8_prefix(std::string_view text);

// Where the character at `at` ends; one byte further where none stands.
size_t next_character(std::string_view text, size_t at);

// The code point of a valid character, which must be all of the text.
char32_t code_point(std::string_view character);

// Appends a code point that RFC 3629 allows.
void append_utf8(char32_t point, std::string& text);

// Whether the text is the beginning of one character and more bytes could complete it.
bool unfinished_utf8_character(std::string_view text);

}  // namespace choir::text
