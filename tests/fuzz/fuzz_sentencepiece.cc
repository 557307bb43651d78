// Two bytes say how long the tokenizer.model after them is; it is one, or an input error. What it makes of the bytes
// after it are ids of its own, the same ones again, and text that comes back in a stream as in one piece.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;
  if (size < 2) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 2, size - 2);
  const size_t model_size = std::min<size_t>(input.size(), data[0] | data[1] << 8);
  const std::string_view text = input.substr(model_size);
  try {
    const auto tokenizer = text::parse_sentencepiece_model(input.substr(0, model_size), "input");
    const auto ids = tokenizer->encode(text);
    CHOIR_CHECK(ids == tokenizer->encode(text), "twice");
    const std::string whole = tokenizer->decode(ids, text::Specials::kKeep);
    text::StreamDecoder stream(*tokenizer, text::Specials::kKeep);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    CHOIR_CHECK(streamed + stream.flush() == whole, "stream");
    tokenizer->decode(tokenizer->encode_ordinary(text));
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
  }
  return 0;
}
