// Bytes up to the first NUL are a tokenizer.json or an input error; what it makes of the bytes after it, it can undo.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t json_size = std::min(input.find('\0'), size);
  const std::string_view text = input.substr(std::min(json_size + 1, size));
  try {
    const auto tokenizer = text::parse_tokenizer(std::string(input.substr(0, json_size)), "input");
    CHOIR_CHECK(tokenizer->decode(tokenizer->encode(text), text::Specials::kKeep) == text, "encode");
    CHOIR_CHECK(tokenizer->decode(tokenizer->encode_ordinary(text), text::Specials::kKeep) == text, "ordinary");
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
  }
  return 0;
}
