#include "text/directory_tokens.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/files.h"
#include "text/gguf_tokens.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;
using tests::contains;
using tests::refusal_of;

SentencePieceModel small_model() {
  SentencePieceModel model;
  model.kind = SentencePieceModel::kBpe;
  model.remove_extra_spaces = false;
  using Type = SentencePieceModel::Type;
  model.tokens = {{"<unk>", 0, Type::kUnknown}, {"<s>", 0, Type::kControl}, {"</s>", 0, Type::kControl}};
  for (const char* text : {"▁a", "ab", "▁", "a", "b"})
    model.tokens.push_back({text, 2 - static_cast<float>(model.tokens.size()), Type::kNormal});
  return model;
}

// A directory with nothing but tokenizer.model.
struct Directory : tests::TemporaryDirectory {
  Directory() { write("tokenizer.model", file_of(small_model())); }
};

GgufVocabulary read(const tests::TemporaryDirectory& directory, size_t size) {
  std::vector<std::string> notes;
  return directory_vocabulary(directory.path(), size, notes);
}

TEST_CASE("directory tokens: a SentencePiece model alone, with the ids that it names") {
  const Directory directory;
  CHECK(directory_has_tokens(directory.path()));
  const GgufVocabulary v = read(directory, 10);
  CHECK(v.model == "llama");
  CHECK(v.tokens.size() == 10);
  CHECK(v.types[9] == SentencePieceModel::kUnused);
  CHECK(Ids{v.unknown, v.bos, v.eos, v.padding} == Ids{0, 1, 2, -1});
  const auto tokenizer = load_directory_tokenizer(directory.path());
  CHECK(tokenizer->framed(tokenizer->encode("a ab")) == Ids{1, 3, 3, 7});
  CHECK(make_tokenizer(v, "lists")->encode("a ab") == tokenizer->encode("a ab"));
}

TEST_CASE("directory tokens: what stands beside a SentencePiece model") {
  const Directory directory;
  directory.write("tokenizer_config.json", R"({
    "add_bos_token": false, "add_eos_token": true, "eos_token": {"content": "<|end|>"}, "pad_token": "<unk>",
    "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages }}"}],
    "added_tokens_decoder": {"1": {"content": "<s>", "special": true}, "9": {"content": "<|end|>", "special": true}}})");
  directory.write("added_tokens.json", R"({"<tool>": 10, "<|end|>": 9})");
  const GgufVocabulary v = read(directory, 12);
  CHECK(v.tokens[8] == "[unused8]");
  CHECK(v.tokens[9] == "<|end|>");
  CHECK(v.types[9] == SentencePieceModel::kControl);
  CHECK(v.types[10] == SentencePieceModel::kUserDefined);
  CHECK(Ids{v.eos, v.padding} == Ids{9, 0});
  CHECK(v.chat_template == "{{ messages }}");
  const auto tokenizer = load_directory_tokenizer(directory.path());
  CHECK(tokenizer->framed(tokenizer->encode("b<|end|>")) == Ids{5, 7, 9, 9});
  directory.write("chat_template.jinja", "{{ bos_token }}");
  CHECK(read(directory, 0).chat_template == "{{ bos_token }}");
}

TEST_CASE("directory tokens: faults are named") {
  const Directory directory;
  directory.write("added_tokens.json", R"({"<tool>": 3})");
  CHECK(contains(refusal_of([&] { read(directory, 0); }), "'<tool>' has the id of '▁a'"));
  directory.write("added_tokens.json", R"({"<tool>": 3000000})");
  CHECK(contains(refusal_of([&] { read(directory, 0); }), "out of range"));
  directory.write("added_tokens.json", "[]");
  CHECK(contains(refusal_of([&] { read(directory, 0); }), "not an object"));
  directory.write("added_tokens.json", "{}");
  directory.write("tokenizer_config.json", R"({"added_tokens_decoder": {"-1": {"content": "x"}}})");
  CHECK(contains(refusal_of([&] { read(directory, 0); }), "'-1' is not the id"));
  directory.write("tokenizer_config.json", "{}");
  directory.write("tokenizer.model", "noise");
  CHECK(contains(refusal_of([&] { read(directory, 0); }), "tokenizer.model"));
}

TEST_CASE("directory tokens: out and in again") {
  const Directory directory;
  directory.write("tokenizer_config.json", R"({"chat_template": "{{ bos_token }}", "pad_token": "</s>"})");
  const GgufVocabulary v = read(directory, 12);
  const tests::TemporaryDirectory out;
  write_directory_tokens(v, 77, out.path(), "lists");
  CHECK(nlohmann::json::parse(base::read_file(out.file("tokenizer_config.json")))["model_max_length"] == 77);
  const GgufVocabulary again = read(out, 12);
  CHECK(again.json == base::read_file(out.file("tokenizer.json")));
  CHECK(again.tokens == v.tokens);
  CHECK(again.types == v.types);
  CHECK(again.chat_template == v.chat_template);
  CHECK(Ids{again.unknown, again.bos, again.eos, again.padding} == Ids{0, 1, 2, 2});
  const auto before = load_directory_tokenizer(directory.path()), after = load_directory_tokenizer(out.path());
  for (const char* text : {"a ab", "  b<s>a", "c", ""}) {
    CAPTURE(text);
    CHECK(after->framed(after->encode(text)) == before->framed(before->encode(text)));
  }
}

}  // namespace
}  // namespace choir::text
