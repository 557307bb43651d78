// The printable names that GPT-2 gave to bytes, so that any byte string is a line of visible letters in a vocabulary.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace choir::text {

// One letter a byte: " the" becomes "Ġthe".
std::string byte_level_name(std::string_view bytes);

// The way back; nothing when the name contains a letter that stands for no byte.
std::optional<std::string> bytes_of_byte_level(std::string_view name);

}  // namespace choir::text
