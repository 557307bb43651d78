// Bytes as letters (RFC 4648), for the tables inside tokenizer.json.
#pragma once

#include <string>
#include <string_view>

namespace choir::text {

std::string base64(std::string_view bytes);

// Ends at the first "=". Throws Error (input) that names `where`.
std::string decode_base64(std::string_view letters, const std::string& where);

}  // namespace choir::text
