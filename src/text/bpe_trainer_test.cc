#include "text/bpe_trainer.h"

#include <doctest/doctest.h>

#include <map>

#include "base/error.h"
#include "text/pretokenizer.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;

struct Reference {
  std::vector<std::string> tokens;  // the 256 bytes, then what was learnt
};

// The definition, slowly: count all pairs of all words afresh for each merge.
Reference reference_training(const std::string& text, int vocab_size) {
  Reference result;
  for (int byte = 0; byte < 256; ++byte) result.tokens.emplace_back(1, static_cast<char>(byte));
  std::vector<Ids> words;
  Pretokenizer::Arena arena;
  Pretokenizer(isolate_matches({kSingleDigitsPattern}, "test"))
      .split(text, Place::kBegin, arena, [&](std::string_view word) {
        words.emplace_back();
        for (const char c : word) words.back().push_back(static_cast<unsigned char>(c));
      });
  while (static_cast<int>(result.tokens.size()) < vocab_size) {
    std::map<std::pair<int32_t, int32_t>, int> counts;
    for (const Ids& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    std::pair<int32_t, int32_t> best;
    int most = 1;
    for (const auto& [pair, count] : counts)
      if (count > most) best = pair, most = count;
    if (most < 2) break;
    const std::string token = result.tokens[best.first] + result.tokens[best.second];
    auto id =
        static_cast<int32_t>(std::find(result.tokens.begin(), result.tokens.end(), token) - result.tokens.begin());
    if (id == static_cast<int32_t>(result.tokens.size())) result.tokens.push_back(token);
    for (Ids& word : words) {
      Ids merged;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool here = i + 1 < word.size() && word[i] == best.first && word[i + 1] == best.second;
        merged.push_back(here ? id : word[i]);
        i += here;
      }
      word = merged;
    }
  }
  return result;
}

std::string random_text(base::Rng& rng, size_t words) {
  std::string text;
  for (size_t w = 0; w < words; ++w) {
    for (uint64_t letters = 1 + rng.below(6); letters > 0; --letters) text += static_cast<char>('a' + rng.below(3));
    text += rng.below(9) == 0 ? "\n    " : " ";
  }
  return text;
}

}  // namespace

TEST_CASE("training agrees with the definition") {
  base::Rng rng(11);
  for (int round = 0; round < 12; ++round) {
    const std::string text = random_text(rng, 300);
    const int vocab_size = 256 + 20 * (round + 1);
    BpeTrainer trainer({vocab_size, {}});
    trainer.add(text);
    const auto tokenizer = trainer.train();
    const Reference reference = reference_training(text, vocab_size);
    REQUIRE(tokenizer->vocab_size() == static_cast<int>(reference.tokens.size()));
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) REQUIRE(tokenizer->bytes(id) == reference.tokens[id]);
  }
}

TEST_CASE("special tokens come first and end the documents") {
  BpeTrainer trainer({300, {"<|endoftext|>", "<|user|>"}});
  trainer.add("the theory of the thing");
  const auto tokenizer = trainer.train();
  CHECK(tokenizer->end_of_text() == 0);
  CHECK(tokenizer->id_of("<|user|>") == 1);
  CHECK(tokenizer->bytes(2) == std::string_view("\0", 1));
  CHECK(tokenizer->encode("<|user|> the") == Ids{1, tokenizer->id_of("Ġthe").value()});
  CHECK(tokenizer->encode_ordinary("<|user|>").size() == 8);
}

TEST_CASE("digits stay single, indentation is learnt, training stops when nothing repeats") {
  BpeTrainer trainer({1000, {}});
  for (int i = 0; i < 5; ++i) trainer.add("if x:\n        return 1234\n\xff");
  const auto tokenizer = trainer.train();
  CHECK(tokenizer->vocab_size() < 300);
  CHECK(tokenizer->encode("1234").size() == 4);
  CHECK(tokenizer->encode("\n        return").size() == 2);
}

TEST_CASE("a learnt token never takes the name of a special one") {
  BpeTrainer trainer({400, {"the"}});
  for (int i = 0; i < 5; ++i) trainer.add("the them bathe");
  const auto tokenizer = trainer.train();
  CHECK(tokenizer->id_of("the") == 0);
  CHECK(tokenizer->decode(tokenizer->encode_ordinary("the them")) == "the them");
}

TEST_CASE("more documents may follow a training") {
  BpeTrainer trainer({300, {}});
  trainer.add("aaaa");
  const int before = trainer.train()->vocab_size();
  trainer.add("bcbcbc");
  CHECK(trainer.train()->vocab_size() > before);
}

TEST_CASE("a vocabulary without room is refused") {
  CHECK_THROWS_AS(BpeTrainer({256, {"<|endoftext|>"}}), base::Error);
  CHECK_THROWS_AS(BpeTrainer({400, {"<a>", "<a>"}}), base::Error);
  CHECK_THROWS_AS(BpeTrainer({400, {""}}), base::Error);
  CHECK_THROWS_AS(BpeTrainer({400, {"A"}}), base::Error);
  CHECK_THROWS_AS(BpeTrainer({400, {"<\xff>"}}), base::Error);
}

}  // namespace choir::text
