#include "text/gguf_tokens.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/atomic_output.h"
#include "base/error.h"
#include "tests/files.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using nlohmann::json;
using tests::contains;

// The tokenizer of a fuzz input, which a NUL ends.
std::string sample(const std::string& name) {
  const std::string input = base::read_file(std::string(CHOIR_SOURCE_DIR) + "/tests/fuzz/corpus/tokenizer/" + name);
  return input.substr(0, input.find('\0'));
}

// Through the lists of a GGUF file and back.
GgufVocabulary written_and_read(const GgufVocabulary& vocabulary) {
  io::GgufHeader header;
  put_gguf_vocabulary(vocabulary, header);
  const std::string bytes = header.bytes();
  return read_gguf_vocabulary(io::parse_gguf(std::as_bytes(std::span(bytes)), "test").metadata);
}

// The lists alone, without the file that came with them; then as a tokenizer.json made of them.
void check_same_ids(const std::string& source, const GgufVocabulary& vocabulary) {
  CHECK(vocabulary.json == source);
  GgufVocabulary lists = written_and_read(vocabulary);
  CHECK(lists.json == source);
  lists.json.clear();
  const auto ours = parse_tokenizer(source, "json"), theirs = make_tokenizer(lists, "gguf"),
             back = parse_tokenizer(tokenizer_json_of(lists, "gguf"), "back");
  for (const char* text :
       {"the cat", " the  the", "abc abcabc", "h\xc3\xa9llo\n\tx", "12 345", "\xe6\xbc\xa2\xe5\xad\x97", ""}) {
    CAPTURE(text);
    CHECK(ours->framed(ours->encode(text)) == theirs->framed(theirs->encode(text)));
    CHECK(theirs->decode(theirs->encode(text)) == ours->decode(ours->encode(text)));
    CHECK(back->framed(back->encode(text)) == ours->framed(ours->encode(text)));
    CHECK(back->decode(back->encode(text)) == ours->decode(ours->encode(text)));
  }
}

// A byte-level vocabulary of single bytes, one merge and one control token.
json small_tokenizer() {
  json vocab = json::object();
  int id = 0;
  for (const std::string& name : byte_names()) vocab[name] = id++;
  vocab["th"] = id++;
  return {{"added_tokens", {{{"id", id}, {"content", "<|end|>"}, {"special", true}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h"}}}}};
}

TEST_CASE("gguf tokens: a byte-level BPE gives the same ids from the lists of a file") {
  std::vector<std::string> notes;
  const std::string source = small_tokenizer().dump();
  const GgufVocabulary vocabulary = gguf_vocabulary_of(source, 260, "test", notes);
  CHECK(notes.empty());
  CHECK(vocabulary.model == "gpt2");
  CHECK(vocabulary.pre == "gpt-2");
  CHECK(vocabulary.tokens.size() == 260);
  CHECK(vocabulary.types[257] == 3);
  CHECK(vocabulary.types[259] == 5);
  CHECK(vocabulary.merges == std::vector<std::string>{"t h"});
  check_same_ids(source, vocabulary);
}

TEST_CASE("gguf tokens: a BPE with byte fallback becomes scores, and gives the same ids") {
  std::vector<std::string> notes;
  const std::string source = sample("byte_fallback");
  const GgufVocabulary vocabulary = gguf_vocabulary_of(source, 0, "test", notes);
  CHECK(vocabulary.model == "llama");
  CHECK(vocabulary.scores.size() == vocabulary.tokens.size());
  check_same_ids(source, vocabulary);
}

TEST_CASE("gguf tokens: a Unigram keeps its scores, and gives the same ids") {
  std::vector<std::string> notes;
  json vocab = json::array();
  for (const auto& [name, score] :
       {std::pair{"<unk>", 0.0}, std::pair{"</s>", 0.0}, std::pair{"▁the", -2.0}, std::pair{"▁", -3.0},
        std::pair{"c", -4.0}, std::pair{"at", -3.5}, std::pair{"abc", -5.0}, std::pair{"b", -6.0}})
    vocab.push_back(json::array({name, score}));
  const json unigram = {
      {"added_tokens",
       {{{"id", 0}, {"content", "<unk>"}, {"special", true}}, {{"id", 1}, {"content", "</s>"}, {"special", true}}}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}},
          {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}}}}}},
      {"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "▁"}, {"add_prefix_space", true}}},
      {"decoder", {{"type", "Metaspace"}, {"replacement", "▁"}, {"add_prefix_space", true}}},
      {"model", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocab}}}};
  const GgufVocabulary vocabulary = gguf_vocabulary_of(unigram.dump(), 0, "test", notes);
  CHECK(vocabulary.model == "t5");
  CHECK(vocabulary.types == std::vector<int32_t>{2, 3, 1, 1, 1, 1, 1, 1});
  CHECK(vocabulary.scores[5] == -3.5f);
  CHECK(vocabulary.remove_extra_spaces == true);
  check_same_ids(unigram.dump(), vocabulary);
}

TEST_CASE("gguf tokens: words that llama.cpp has no name for are said, and parts without a place are refused") {
  std::vector<std::string> notes;
  json own = small_tokenizer();
  own["pre_tokenizer"] = {{"type", "Sequence"},
                          {"pretokenizers",
                           {{{"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}},
                            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  CHECK(gguf_vocabulary_of(own.dump(), 0, "test", notes).pre == "gpt-2");
  REQUIRE(notes.size() == 1);
  CHECK(contains(notes[0], "cut text as GPT-2 does"));
  json unigram = small_tokenizer(), pieces = small_tokenizer();
  unigram["model"] = {{"type", "Unigram"}, {"vocab", {{"a", -1.0}}}};
  CHECK(contains(tests::refusal_of([&] { gguf_vocabulary_of(unigram.dump(), 0, "test", notes); }), "over bytes"));
  pieces["model"]["type"] = "WordPiece";
  CHECK(contains(tests::refusal_of([&] { gguf_vocabulary_of(pieces.dump(), 0, "test", notes); }), "WordPiece"));
  json holes = small_tokenizer();
  holes["added_tokens"][0]["id"] = 1 << 23;
  CHECK(contains(tests::refusal_of([&] { gguf_vocabulary_of(holes.dump(), 0, "test", notes); }), "leaves holes"));
}

TEST_CASE("gguf tokens: a file without tokens has none") {
  io::GgufHeader header;
  header.put("tokenizer.ggml.model", "none");
  const std::string bytes = header.bytes();
  CHECK(read_gguf_vocabulary(io::parse_gguf(std::as_bytes(std::span(bytes)), "test").metadata).tokens.empty());
}

}  // namespace
}  // namespace choir::text
