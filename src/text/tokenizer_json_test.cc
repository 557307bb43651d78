#include "text/tokenizer_json.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/test_support.h"
#include "text/tokenizer.h"

namespace choir::text {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

// Bytes 0 .. 255, 256 = "ab", 257 = "<|endoftext|>".
json small() {
  json root = json::parse(R"({"version": "1.0", "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "decoder": {"type": "ByteLevel"}, "post_processor": {"type": "ByteLevel"},
    "added_tokens": [{"id": 257, "content": "<|endoftext|>", "special": true}],
    "model": {"type": "BPE", "vocab": {}, "merges": ["a b"], "unk_token": null}})");
  int id = 0;
  for (const std::string& name : byte_names()) root["model"]["vocab"][name] = id++;
  root["model"]["vocab"]["ab"] = 256;
  return root;
}

std::string message_of(const json& root) {
  try {
    parse_tokenizer(root.dump(), "dir/tokenizer.json");
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    return error.what();
  }
  return "no error";
}

struct Damage {
  const char* pointer;  // what is replaced
  json value;
  const char* named;  // what the message must name
};

}  // namespace

TEST_CASE("both spellings of merges, both shapes of the pre-tokenizer") {
  json root = small();
  CHECK(parse_tokenizer(root.dump(), "x")->encode("abc<|endoftext|>") == Ids{256, 'c', 257});
  root["model"]["merges"] = json::array({json::array({"a", "b"})});
  root["pre_tokenizer"] = json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "b"}, "behavior": "Isolated", "invert": false},
    {"type": "Digits", "individual_digits": true},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})");
  CHECK(parse_tokenizer(root.dump(), "x")->encode("ab") == Ids{'a', 'b'});
  root["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": []})");
  CHECK(parse_tokenizer(root.dump(), "x")->vocab_size() == 258);
}

TEST_CASE("what is damaged or not supported is named") {
  const Damage damages[] = {
      {"/model/type", "WordPiece", "WordPiece"},
      {"/model/unk_token", "<unk>", "unk_token"},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"/model/dropout", 0.5, "dropout"},
      {"/model/vocab", 3, "vocab"},
      {"/model/vocab/ab", 255, "255"},
      {"/model/vocab/ab", 100000, "100000"},
      {"/model/vocab/ab", uint64_t{1} << 63, "'ab'"},
      {"/model/vocab/ab", -1, "-1"},
      {"/model/vocab/ab", "x", "'ab'"},
      {"/model/vocab/b", 256, "256"},
      {"/model/vocab/", 258, "an empty token"},
      {"/model/merges", nullptr, "merges"},
      {"/model/merges/0", "a c", "merges[0]"},
      {"/model/merges/0", "a b c", "merges[0]"},
      {"/model/merges/0", "ab", "merges[0]"},
      {"/model/merges/0", 5, "merges[0]"},
      {"/model/merges/0", {"a", ""}, "merges[0]"},
      {"/model/merges/1", "a b", "merges[1]"},
      {"/model/merges/1", "a zz", "'zz'"},
      {"/normalizer", {{"type", "BertNormalizer"}}, "BertNormalizer"},
      {"/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "(a"}}}, {"content", ""}}, "(a"},
      {"/normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}}, "empty pattern"},
      {"/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "////"}}, "table of letters"},
      {"/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "*"}}, "base64"},
      {"/pre_tokenizer/type", "Metaspace", "replacement"},
      {"/pre_tokenizer/type", "UnicodeScripts", "UnicodeScripts"},
      {"/pre_tokenizer", json::parse(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
        {"type": "ByteLevel"}]})"),
       "ByteLevel after ByteLevel"},
      {"/pre_tokenizer", json::parse(R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Eaten"})"), "Eaten"},
      {"/decoder/type", "WordPiece", "WordPiece"},
      {"/decoder", json::parse(R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})"),
       "decoders[1]"},
      {"/post_processor/type", "TemplateProcessing", "single"},
      {"/post_processor", json::parse(R"({"type": "RobertaProcessing", "cls": ["a", 999], "sep": ["b", 1]})"), "999"},
      {"/added_tokens", 5, "added_tokens"},
      {"/added_tokens/0/content", "", "added_tokens[0]"},
      {"/added_tokens/0/lstrip", 1, "lstrip"},
      {"/added_tokens/0/id", 100000, "100000"},
      {"/added_tokens/0/id", 256, "256"},
      {"/added_tokens/0/content", "ab", "'ab'"},
  };
  for (const Damage& damage : damages) {
    json root = small();
    root[json::json_pointer(damage.pointer)] = damage.value;
    const std::string message = message_of(root);
    CAPTURE(damage.pointer);
    CAPTURE(message);
    CHECK(message.find("dir/tokenizer.json") != std::string::npos);
    CHECK(message.find(damage.named) != std::string::npos);
  }
}

TEST_CASE("ids without a token are nothing") {
  json root = small();
  root["added_tokens"][0]["id"] = 300;
  const auto tokenizer = parse_tokenizer(root.dump(), "x");
  CHECK(tokenizer->vocab_size() == 301);
  CHECK(tokenizer->name(299).empty());
  CHECK(tokenizer->decode(Ids{'a', 299, 300}, Specials::kKeep) == "a<|endoftext|>");
}

TEST_CASE("a byte without a token is unknown, or nothing where there is no unknown token") {
  json root = small();
  root["model"]["vocab"].erase("!");
  root["model"]["vocab"]["!!"] = '!';
  CHECK(parse_tokenizer(root.dump(), "x")->encode("a!c") == Ids{'a', 'c'});
  root["model"]["unk_token"] = "!!";
  CHECK(parse_tokenizer(root.dump(), "x")->encode("a!c") == Ids{'a', '!', 'c'});
}

TEST_CASE("a file that is cut off anywhere is refused") {
  const std::string text = small().dump();
  for (size_t size = 0; size < text.size(); size += 97)
    CHECK_THROWS_AS(parse_tokenizer(text.substr(0, size), "x"), base::Error);
}

TEST_CASE("a written vocabulary is read back") {
  ByteLevelBpe bpe{"\\p{L}+", {"<|endoftext|>"}, {}, {{1 + 'a', 1 + 'b'}}};
  for (int byte = 0; byte < 256; ++byte) bpe.tokens.emplace_back(1, static_cast<char>(byte));
  bpe.tokens.emplace_back("ab");
  const auto tokenizer = parse_tokenizer(byte_level_bpe_json(bpe), "x");
  CHECK(tokenizer->vocab_size() == 258);
  CHECK(tokenizer->encode("ab<|endoftext|>") == Ids{257, 0});
}

}  // namespace choir::text
