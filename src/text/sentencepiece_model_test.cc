#include "text/sentencepiece_model.h"

#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;
using Model = SentencePieceModel;

// <unk>, <s>, </s>, then the given tokens with the scores -1, -2, ...
Model model_of(const std::vector<std::string>& texts, int kind = Model::kBpe) {
  Model model;
  model.kind = kind;
  model.remove_extra_spaces = false;
  model.tokens = {{"<unk>", 0, Model::kUnknown}, {"<s>", 0, Model::kControl}, {"</s>", 0, Model::kControl}};
  for (const std::string& text : texts)
    model.tokens.push_back({text, 2 - static_cast<float>(model.tokens.size()), Model::kNormal});
  return model;
}

void add_bytes(Model& model) {
  model.byte_fallback = true;
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    model.tokens.push_back({name, 0, Model::kByte});
  }
}

// SentencePiece's definition: of all neighbours whose text together is a token the best score, the leftmost of equals.
Ids reference(const Model& model, const std::string& text) {
  std::map<std::string, int32_t> ids;
  for (size_t id = 3; id < model.tokens.size(); ++id) ids[model.tokens[id].text] = static_cast<int32_t>(id);
  std::vector<std::string> parts;
  for (const char c : text) parts.emplace_back(1, c);
  while (true) {
    size_t best = parts.size();
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ids.find(parts[i] + parts[i + 1]);
      if (found == ids.end()) continue;
      const bool better = best == parts.size() ||
                          model.tokens[found->second].score > model.tokens[ids[parts[best] + parts[best + 1]]].score;
      if (better) best = i;
    }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  Ids result;
  for (const std::string& part : parts) {
    const int32_t id = ids.contains(part) ? ids[part] : 0;
    if (id != 0 || result.empty() || result.back() != 0) result.push_back(id);
  }
  return result;
}

std::string message_of(const Model& model) {
  try {
    make_tokenizer(model, "file");
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a blank in front, merges by score, and the way back") {
  const auto tokenizer = make_tokenizer(model_of({"▁t", "he", "▁the", "▁", "t", "h", "e", "x"}), "test");
  CHECK(tokenizer->encode("the") == Ids{5});
  CHECK(tokenizer->encode(" the") == Ids{6, 5});
  CHECK(tokenizer->encode("thex") == Ids{5, 10});
  CHECK(tokenizer->encode("<s>the</s>") == Ids{1, 5, 2});
  CHECK(tokenizer->encode_ordinary("<s>") == Ids{6, 0});
  CHECK(tokenizer->decode(Ids{1, 5, 5, 2}) == "the the");
  CHECK(tokenizer->decode(Ids{1, 5}, Specials::kKeep) == "<s> the");
  CHECK(tokenizer->bytes(5) == " the");
  CHECK(tokenizer->encode("").empty());
}

TEST_CASE("what has no token falls back to bytes and comes back") {
  Model model = model_of({"▁", "a"});
  add_bytes(model);
  const auto tokenizer = make_tokenizer(model, "test");
  CHECK(tokenizer->encode("aé") == Ids{3, 4, 5 + 0xc3, 5 + 0xa9});
  base::Rng rng(3);
  for (size_t size = 0; size < 200; ++size) {
    const std::string text = random_bytes(rng, size);
    REQUIRE(tokenizer->decode(tokenizer->encode_ordinary(text)) == text);
  }
}

// The letter x is no token, yet part of one.
TEST_CASE("merges take strangers along") {
  const auto tokenizer = make_tokenizer(model_of({"▁", "a", "xa"}), "test");
  CHECK(tokenizer->encode("xa") == Ids{3, 5});
  CHECK(tokenizer->encode("axxqa") == Ids{3, 4, 0, 4});
}

TEST_CASE("random vocabularies agree with the definition") {
  base::Rng rng(17);
  for (int round = 0; round < 300; ++round) {
    std::map<std::string, bool> seen;
    std::vector<std::string> texts;
    for (int t = 0; t < 14; ++t) {
      std::string text;
      for (uint64_t letters = 1 + rng.below(4); letters > 0; --letters) text += static_cast<char>('a' + rng.below(3));
      if (seen.emplace(text, true).second) texts.push_back(text);
    }
    Model model = model_of(texts);
    for (auto& token : model.tokens)
      if (rng.below(3) == 0) token.score = -3;  // ties
    model.add_dummy_prefix = false;
    std::string text;
    while (text.size() < 25) text += static_cast<char>('a' + rng.below(3));
    CAPTURE(text);
    REQUIRE(make_tokenizer(model, "test")->encode(text) == reference(model, text));
  }
}

TEST_CASE("user-defined tokens are whole, whatever scores say") {
  Model model = model_of({"▁", "a", "b", "ab"});
  model.tokens.push_back({"ba", 0, Model::kUserDefined});
  const auto tokenizer = make_tokenizer(model, "test");
  CHECK(tokenizer->encode("abab") == Ids{3, 4, 7, 5});
  CHECK_FALSE(tokenizer->is_special(7));
  model.kind = Model::kUnigram;
  CHECK(make_tokenizer(model, "test")->encode("ba") == Ids{3, 7});
}

TEST_CASE("a file says the same as its parts") {
  Model model = model_of({"▁the", "▁", "t", "h", "e"}, Model::kUnigram);
  add_bytes(model);
  const Model read = read_sentencepiece(file_of(model) + field(99, "more"), "test");
  REQUIRE(read.tokens.size() == model.tokens.size());
  CHECK(read.tokens[3].text == "▁the");
  CHECK(read.tokens[4].score == -2);
  CHECK(read.tokens[2].type == Model::kControl);
  CHECK(read.kind == Model::kUnigram);
  CHECK(read.byte_fallback);
  CHECK_FALSE(read.remove_extra_spaces);
  CHECK(parse_sentencepiece_model(file_of(model), "x")->encode("the") == Ids{3});
}

TEST_CASE("damaged files are refused, with the byte") {
  const std::string file = file_of(model_of({"▁", "a"}));
  int refused = 0;
  for (size_t size = 0; size < file.size(); ++size) {
    try {
      parse_sentencepiece_model(file.substr(0, size), "dir/tokenizer.model");
    } catch (const base::Error& error) {
      CHECK(std::string(error.what()).find("dir/tokenizer.model") != std::string::npos);
      ++refused;
    }
  }
  CHECK(refused > static_cast<int>(file.size()) / 2);  // some cuts fall between fields
  for (const char* bytes : {"\x0f", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x08", "\x0d\x01\x02"})
    CHECK_THROWS_AS(parse_sentencepiece_model(bytes, "x"), base::Error);
}

TEST_CASE("models that make no sense are refused") {
  Model twice = model_of({"a", "a"}), none = model_of({"a"}), kind = model_of({"a"}), bytes = model_of({"a"});
  CHECK(message_of(twice).find("'a' stands twice") != std::string::npos);
  none.tokens.erase(none.tokens.begin());
  CHECK(message_of(none).find("no unknown token") != std::string::npos);
  kind.kind = 3;
  CHECK(message_of(kind).find("neither BPE nor Unigram") != std::string::npos);
  bytes.byte_fallback = true;
  CHECK(message_of(bytes).find("256 bytes") != std::string::npos);
  Model long_token = model_of({std::string(300, 'a')}), empty = model_of({""}), score = model_of({"a"});
  CHECK(message_of(long_token).find("300 bytes") != std::string::npos);
  CHECK(message_of(empty).find("empty or not UTF-8") != std::string::npos);
  score.tokens[3].score = std::numeric_limits<float>::infinity();
  CHECK(message_of(score).find("no number") != std::string::npos);
}

}  // namespace choir::text
