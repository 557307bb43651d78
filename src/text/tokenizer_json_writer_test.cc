// The lists of GGUF files and SentencePiece models become tokenizer.json files of the same ids.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/files.h"
#include "text/gguf_tokens.h"
#include "text/sentencepiece_model.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;

const char* const kTexts[] = {"a b", "  a   bc  ", "b<s>a",        "\xc3\xa9 caf\x65\xcc\x81",
                              "",    " ",          "a\nb\t12 345", "abcab"};

// `tokenizers` lets a Unigram make special tokens of their letters.
void check_same(const Tokenizer& ours, const Tokenizer& made, const std::string& text, bool unigram = false) {
  CAPTURE(text);
  const bool named = unigram && text.find("<s>") != std::string::npos;
  const Ids ids = ours.framed(ours.encode(text));
  CHECK(made.framed(made.encode(text)) == ids);
  CHECK(made.decode(ids) == ours.decode(ids));
  CHECK((made.encode_ordinary(text) == ours.encode_ordinary(text) || named));
}

// The lists alone, without the file that they came from.
std::unique_ptr<const Tokenizer> from_lists(GgufVocabulary vocabulary) {
  vocabulary.json.clear();
  return parse_tokenizer(tokenizer_json_of(vocabulary, "lists"), "made");
}

// <unk> <s> </s>, the bytes where there are any, then tokens with falling scores and one that users defined.
GgufVocabulary sentencepiece(const std::string& model, bool bytes) {
  GgufVocabulary v;
  v.model = model;
  v.tokens = {"<unk>", "<s>", "</s>"};
  v.types = {2, 3, 3};
  for (int byte = 0; byte < 256 && bytes; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
    v.tokens.emplace_back(name);
    v.types.push_back(6);
  }
  v.scores.assign(v.tokens.size(), 0);
  float score = 0;
  for (const char* token : {"▁a", "bc", "abc", "▁", "a", "b", "c", "s", "<", ">"}) {
    v.tokens.emplace_back(token);
    v.scores.push_back(--score);
    v.types.push_back(1);
  }
  v.tokens.emplace_back("caf");
  v.scores.push_back(0);
  v.types.push_back(4);
  v.bos = 1;
  v.eos = 2;
  v.unknown = 0;
  return v;
}

TEST_CASE("tokenizer.json of SentencePiece vocabularies") {
  for (const std::string model : {"llama", "t5"})
    for (const bool bytes : {false, true})
      for (const int flags : {0, 1, 2, 3}) {
        CAPTURE(model);
        CAPTURE(bytes);
        CAPTURE(flags);
        GgufVocabulary v = sentencepiece(model, bytes);
        v.add_space_prefix = (flags & 1) != 0;
        v.remove_extra_spaces = (flags & 2) != 0;
        v.add_bos = v.add_eos = flags == 3;
        fill_up(v, v.tokens.size() + 3);
        if (model == "llama" && flags & 1) v.types[v.types.size() - 4] = 1;  // where places differ: see below
        const auto ours = make_tokenizer(v, "lists"), made = from_lists(v);
        CHECK(made->vocab_size() == static_cast<int>(v.tokens.size()) - 3);
        for (const char* text : kTexts) check_same(*ours, *made, text, v.model == "t5");
      }
}

TEST_CASE("tokenizer.json: behind a token that users defined text begins anew where blanks are put in front") {
  const GgufVocabulary v = sentencepiece("llama", true);
  const Ids ids = from_lists(v)->encode("caf a");
  const auto id = [&](const char* name) {
    return static_cast<int32_t>(std::find(v.tokens.begin(), v.tokens.end(), name) - v.tokens.begin());
  };
  CHECK(ids == Ids{id("caf"), id("▁"), id("▁a")});
}

TEST_CASE("tokenizer.json of byte-level vocabularies") {
  GgufVocabulary v;
  v.model = "gpt2";
  v.tokens = byte_names();
  for (const char* token : {"Ġa", "bc", "<|end|>", "<tool>", "abc", "[PAD261]"}) v.tokens.emplace_back(token);
  v.types.assign(v.tokens.size(), 1);
  v.types[258] = 3;
  v.types[259] = 4;
  v.types[261] = 5;
  v.merges = {"b c", "Ġ a", "a bc"};
  v.bos = 258;
  for (const char* pre :
       {"gpt-2", "qwen2", "llama-bpe", "falcon", "deepseek-llm", "deepseek-v3", "starcoder", "gpt-4o"})
    for (const bool bos : {false, true}) {
      CAPTURE(pre);
      v.pre = pre;
      v.add_bos = bos;
      const auto ours = make_tokenizer(v, "lists"), made = from_lists(v);
      CHECK(made->vocab_size() == 261);
      for (const char* text : kTexts) check_same(*ours, *made, text);
      check_same(*ours, *made, "a<|end|> abc<tool>bc");
    }
}

TEST_CASE("tokenizer.json: the file that the lists came from counts") {
  GgufVocabulary v = sentencepiece("llama", true);
  v.json = from_lists(v)->json();
  const std::string file = v.json;
  v.scores.clear();  // what would be refused
  CHECK(tokenizer_json_of(v, "lists") == file);
  CHECK(make_tokenizer(v, "lists")->encode("a") == from_lists(sentencepiece("llama", true))->encode("a"));
}

TEST_CASE("tokenizer.json: `tokenizers` reads a template for one text and for two") {
  GgufVocabulary v = sentencepiece("llama", true);
  v.add_bos = v.add_eos = true;
  const json made = json::parse(from_lists(v)->json());
  const json& frame = made["post_processor"];
  CHECK(frame["single"].size() == 3);
  CHECK(frame["pair"].size() == 6);
  CHECK(frame["pair"][3]["SpecialToken"]["type_id"] == 1);
  CHECK(frame["special_tokens"]["<s>"]["ids"] == json{1});
  for (const json& token : made["added_tokens"]) CHECK(token.contains("rstrip"));
}

// The texts of the fixtures, and a longer one.
std::vector<std::string> shared_texts() {
  auto texts = fixture_texts(slurp(shared_file("tokenizer-llamacpp-fixtures/ggml-vocab-llama-spm.gguf.inp")));
  texts.push_back(slurp(shared_file("tinyshakespeare/input.txt")).substr(0, 100000));
  return texts;
}

TEST_CASE("tokenizer.json of SentencePiece models: the model's own ids, through the lists of a GGUF file") {
  bool some = false;
  for (const std::string name :
       {"tokenizer-mistral/tokenizer.model.v1", "tokenizer-mistral/mistral_instruct_tokenizer_240216.model.v2",
        "tokenizer-mistral/mistral_instruct_tokenizer_240323.model.v3", "tokenizer-sentencepiece-test/test_model.model",
        "tokenizer-sentencepiece-test/test_ja_model.model"}) {
    const std::string path = shared_file(name);
    if (!std::filesystem::exists(path)) continue;
    some = true;
    CAPTURE(name);
    const std::string file = slurp(path);
    const GgufVocabulary v = gguf_vocabulary_of(read_sentencepiece(file, name), name);
    io::GgufHeader header;
    put_gguf_vocabulary(v, header);
    const std::string bytes = header.bytes();
    const GgufVocabulary read = read_gguf_vocabulary(io::parse_gguf(std::as_bytes(std::span(bytes)), "test").metadata);
    const auto model = parse_sentencepiece_model(file, name), lists = make_tokenizer(read, name),
               made = from_lists(read);
    for (const std::string& text : shared_texts()) {
      CAPTURE(text);
      const Ids ids = model->encode(text);
      CHECK(lists->encode(text) == ids);
      // A table of letters sees joined characters apart in SentencePiece and together in `tokenizers`.
      const bool joined = !v.charsmap.empty() && text.find("\u200d") != std::string::npos;
      CHECK((made->encode(text) == ids || joined));
      CHECK(made->decode(ids) == model->decode(ids));
    }
  }
  if (!some) MESSAGE("skipped: SentencePiece models absent");
}

}  // namespace
}  // namespace choir::text
