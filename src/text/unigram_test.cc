#include "text/unigram.h"

#include <doctest/doctest.h>

#include <limits>
#include <map>

#include "base/rng.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kUnknown = 0;

// Ids from 1 on; -20 for an unknown character.
UnigramVocabulary vocabulary_of(const std::vector<std::pair<std::string, double>>& pieces) {
  UnigramVocabulary vocabulary;
  for (const auto& [text, score] : pieces) {
    vocabulary.pieces.push_back({text, static_cast<int32_t>(vocabulary.pieces.size()) + 1});
    vocabulary.scores.push_back(score);
  }
  vocabulary.unknown_score = -20;
  vocabulary.fallback.unknown = kUnknown;
  return vocabulary;
}

Ids encode(const UnigramVocabulary& vocabulary, const std::string& word) {
  Ids ids;
  Unigram(vocabulary, "test").start(ids)->add(word);
  return ids;
}

// The best sum over all ways to cut a word of ASCII letters.
double best_sum(const UnigramVocabulary& vocabulary, std::string_view word) {
  if (word.empty()) return 0;
  double best = -std::numeric_limits<double>::infinity();
  bool letter = false;
  for (size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const std::string& text = vocabulary.pieces[i].text;
    if (!word.starts_with(text)) continue;
    letter |= text.size() == 1;
    best = std::max(best, vocabulary.scores[i] + best_sum(vocabulary, word.substr(text.size())));
  }
  return letter ? best : std::max(best, vocabulary.unknown_score + best_sum(vocabulary, word.substr(1)));
}

}  // namespace

// By hand: "ab" + "c" is -4, "a" + "bc" is -5, three letters are -9.
TEST_CASE("the cut with the greatest sum") {
  const auto vocabulary = vocabulary_of({{"a", -3}, {"b", -3}, {"c", -3}, {"ab", -1}, {"bc", -2}});
  CHECK(encode(vocabulary, "abc") == Ids{4, 3});
  CHECK(encode(vocabulary, "bc") == Ids{5});
  CHECK(encode(vocabulary, "").empty());
}

// "ab" + "c" and "a" + "bc" are both -4: the cut whose last token is longer was found first.
TEST_CASE("of equal sums the one with the longer last token") {
  CHECK(encode(vocabulary_of({{"a", -2}, {"c", -2}, {"ab", -2}, {"bc", -2}, {"b", -9}}), "abc") == Ids{1, 4});
}

TEST_CASE("unknown characters in a row are one token, or their bytes") {
  auto vocabulary = vocabulary_of({{"a", -1}});
  CHECK(encode(vocabulary, "aéüa") == Ids{1, kUnknown, 1});
  for (int byte = 0; byte < 256; ++byte) vocabulary.fallback.bytes[byte] = 1000 + byte;
  CHECK(encode(vocabulary, "éa") == Ids{1000 + 0xc3, 1000 + 0xa9, 1});
  Ids ids;
  Unigram(vocabulary, "test").start(ids)->add_byte(0xff);
  CHECK(ids == Ids{1255});
}

TEST_CASE("of two tokens with one text the last one counts") {
  CHECK(encode(vocabulary_of({{"a", -1}, {"a", -5}}), "a") == Ids{2});
}

TEST_CASE("random vocabularies and words agree with trying all cuts") {
  base::Rng rng(11);
  for (int round = 0; round < 100; ++round) {
    std::map<std::string, double> pieces;
    for (int p = 0; p < 12; ++p) {
      std::string text;
      for (uint64_t letters = 1 + rng.below(3); letters > 0; --letters) text += static_cast<char>('a' + rng.below(4));
      pieces[text] = -1.0 - static_cast<double>(rng.below(1000)) / 100;
    }
    const auto vocabulary = vocabulary_of({pieces.begin(), pieces.end()});
    std::string word;
    while (word.size() < 12) word += static_cast<char>('a' + rng.below(4));
    double sum = 0;
    std::string text;
    bool unknown = false;
    for (const int32_t id : encode(vocabulary, word)) {
      unknown |= id == kUnknown;
      if (id == kUnknown) continue;
      sum += vocabulary.scores[id - 1];
      text += vocabulary.pieces[id - 1].text;
    }
    if (unknown) continue;
    REQUIRE(text == word);
    REQUIRE(sum == doctest::Approx(best_sum(vocabulary, word)));
  }
}

}  // namespace choir::text
