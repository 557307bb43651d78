// Bytes up to the first NUL are a tokenizer.json or an input error. What it makes of the bytes after it are ids of its
// own, the same ones again, and text that comes back in a stream as in one piece; a byte-level tokenizer that changes
// nothing on the way undoes what it did.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

namespace {

using namespace choir;

using Json = nlohmann::json;

// Words that together are the text, as bytes.
bool cuts_only(const Json& part) {
  const std::string type = part.value("type", "");
  if (type == "Sequence") return std::all_of(part["pretokenizers"].begin(), part["pretokenizers"].end(), cuts_only);
  if (type == "ByteLevel") return part.contains("add_prefix_space") && part["add_prefix_space"] == false;
  return type == "Digits" || (type == "Split" && part.value("behavior", "") != "Removed");
}

// Whether nothing in the file drops or changes text, as in most files that are used.
bool keeps_bytes(const text::Tokenizer& tokenizer) {
  const Json root = Json::parse(tokenizer.json());
  const auto quiet = [&](const char* key) { return !root.contains(key) || root[key].is_null(); };
  if (!quiet("normalizer") || quiet("pre_tokenizer") || quiet("decoder")) return false;
  if (!cuts_only(root["pre_tokenizer"]) || root["pre_tokenizer"].dump().find("ByteLevel") == std::string::npos)
    return false;
  if (root["decoder"].value("type", "") != "ByteLevel" || root["model"].contains("unk_token")) return false;
  if (root["model"].value("type", "BPE") != "BPE" || root.dump().find("strip") != std::string::npos) return false;
  for (int byte = 0; byte < 256; ++byte)
    if (tokenizer.encode_ordinary(std::string(1, static_cast<char>(byte))).empty()) return false;
  return true;
}

void check(const text::Tokenizer& tokenizer, std::string_view text, bool exact) {
  for (const bool specials : {true, false}) {
    const auto ids = specials ? tokenizer.encode(text) : tokenizer.encode_ordinary(text);
    CHOIR_CHECK(ids == (specials ? tokenizer.encode(text) : tokenizer.encode_ordinary(text)), "twice");
    const std::string whole = tokenizer.decode(ids, text::Specials::kKeep);
    text::StreamDecoder stream(tokenizer, text::Specials::kKeep);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    CHOIR_CHECK(streamed + stream.flush() == whole, "stream");
    CHOIR_CHECK(!exact || whole == text, "round trip");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t json_size = std::min(input.find('\0'), size);
  const std::string json(input.substr(0, json_size));
  try {
    const auto tokenizer = text::parse_tokenizer(json, "input");
    check(*tokenizer, input.substr(std::min(json_size + 1, size)), keeps_bytes(*tokenizer));
  } catch (const base::Error& error) {
    CHOIR_CHECK(error.fault == base::Fault::kInput && !error.where.empty() && !error.hint.empty(), error.message);
  }
  return 0;
}
