#include "text/gguf_vocabulary.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;

// The bytes, 256 = " a", 257 = "bc", 258 = <|end|>, 259 = <tool>.
GgufVocabulary byte_level() {
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "qwen2";
  vocabulary.tokens = byte_names();
  for (const char* token : {"Ġa", "bc", "<|end|>", "<tool>"}) vocabulary.tokens.emplace_back(token);
  vocabulary.types.assign(vocabulary.tokens.size(), 1);
  vocabulary.types[258] = 3;
  vocabulary.types[259] = 4;
  vocabulary.merges = {"b c", "Ġ a"};
  return vocabulary;
}

// <unk> <s> </s>, then tokens with falling scores.
GgufVocabulary sentencepiece(const std::string& model) {
  GgufVocabulary vocabulary;
  vocabulary.model = model;
  vocabulary.tokens = {"<unk>", "<s>", "</s>", "▁a", "▁", "a", "b"};
  vocabulary.scores = {0, 0, 0, -1, -2, -3, -4};
  vocabulary.types = {2, 3, 3, 1, 1, 1, 1};
  vocabulary.bos = 1;
  vocabulary.eos = 2;
  return vocabulary;
}

std::string message_of(const GgufVocabulary& vocabulary) {
  try {
    make_tokenizer(vocabulary, "model.gguf");
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kInput);
    CHECK(std::string(error.what()).find("model.gguf") != std::string::npos);
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("byte-level vocabularies with the pattern that their name stands for") {
  GgufVocabulary vocabulary = byte_level();
  const auto tokenizer = make_tokenizer(vocabulary, "x");
  CHECK(tokenizer->encode("bc a12<|end|><tool>") == Ids{257, 256, '1', '2', 258, 259});
  CHECK(tokenizer->encode_ordinary("<tool>") == Ids{259});
  CHECK(tokenizer->encode_ordinary("<|end|>").size() == 7);
  CHECK(tokenizer->decode(Ids{257, 256, 258}) == "bc a");
  CHECK(tokenizer->is_special(258));
  CHECK(tokenizer->framed({1}) == Ids{1});
  vocabulary.bos = 258;
  vocabulary.add_bos = true;
  CHECK(make_tokenizer(vocabulary, "x")->framed({1}) == Ids{258, 1});
  // A merge across "c a" would need one word: in llama-bpe a whole word that is a token needs no merges.
  vocabulary.pre = "llama-bpe";
  vocabulary.merges = {"b c"};
  CHECK(make_tokenizer(vocabulary, "x")->encode(" a") == Ids{256});
}

TEST_CASE("every known name is a pattern that compiles") {
  GgufVocabulary vocabulary = byte_level();
  vocabulary.pre = "no such thing";
  const std::string message = message_of(vocabulary);
  CHECK(message.find("'no such thing' is not known") != std::string::npos);
  std::istringstream names(message.substr(message.rfind("known: ") + 7));
  int count = 0;
  for (std::string name; names >> name; ++count) {
    while (!name.empty() && (name.back() == ',' || name.back() == ')')) name.pop_back();
    vocabulary.pre = name;
    CAPTURE(name);
    CHECK(make_tokenizer(vocabulary, "x")->encode("b").size() == 1);
  }
  CHECK(count >= 20);
}

TEST_CASE("SentencePiece vocabularies") {
  const auto llama = make_tokenizer(sentencepiece("llama"), "x");
  CHECK(llama->framed(llama->encode("a b")) == Ids{1, 3, 4, 6});
  CHECK(llama->encode("  a") == Ids{4, 4, 3});
  CHECK(llama->decode(Ids{1, 3, 4, 6}) == "a b");
  const auto t5 = make_tokenizer(sentencepiece("t5"), "x");
  CHECK(t5->framed(t5->encode("  a   b")) == Ids{3, 4, 6, 2});
  GgufVocabulary bare = sentencepiece("llama");
  bare.add_space_prefix = false;
  bare.add_bos = false;
  CHECK(make_tokenizer(bare, "x")->framed(make_tokenizer(bare, "x")->encode("a")) == Ids{5});
}

TEST_CASE("lists that do not fit are refused, with the key") {
  GgufVocabulary model = byte_level(), types = byte_level(), merges = byte_level(), unknown = byte_level();
  GgufVocabulary empty = byte_level(), scores = sentencepiece("llama"), ids = byte_level(), none = byte_level();
  model.model = "bert";
  types.types.pop_back();
  merges.merges.emplace_back("b");
  unknown.merges.emplace_back("b zz");
  empty.tokens[5].clear();
  scores.scores.clear();
  ids.eos = 400;
  none.tokens.clear();
  CHECK(message_of(model).find("tokenizer.ggml.model") != std::string::npos);
  CHECK(message_of(types).find("tokenizer.ggml.token_type") != std::string::npos);
  CHECK(message_of(merges).find("tokenizer.ggml.merges[2]") != std::string::npos);
  CHECK(message_of(unknown).find("'zz'") != std::string::npos);
  CHECK(message_of(empty).find("tokenizer.ggml.tokens[5]") != std::string::npos);
  CHECK(message_of(scores).find("tokenizer.ggml.scores") != std::string::npos);
  CHECK(message_of(ids).find("400") != std::string::npos);
  CHECK(message_of(none).find("no tokens") != std::string::npos);
}

}  // namespace choir::text
