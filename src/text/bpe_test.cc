#include "text/bpe.h"

#include <doctest/doctest.h>

#include <map>

#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;

// The 256 bytes, then one token for every merge of the bytes of two tokens.
struct Vocabulary {
  explicit Vocabulary(const std::vector<std::pair<std::string, std::string>>& merges) {
    parts.byte_level = true;
    for (int byte = 0; byte < 256; ++byte) id_of(std::string(1, static_cast<char>(byte)));
    for (const auto& [left, right] : merges) {
      const auto rank = static_cast<int32_t>(parts.merges.size());
      parts.merges.push_back({id_of(left), id_of(right), id_of(left + right), rank});
    }
  }

  int32_t id_of(const std::string& bytes) {
    const auto [at, fresh] = ids.emplace(bytes, static_cast<int32_t>(ids.size()));
    if (fresh) parts.pieces.push_back({bytes, at->second});
    return at->second;
  }

  BpeVocabulary parts;
  std::map<std::string, int32_t> ids;
};

Bpe make(const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges = false) {
  Vocabulary vocabulary(merges);
  vocabulary.parts.ignore_merges = ignore_merges;
  return Bpe(vocabulary.parts);
}

// The ids of words that a text consists of.
Ids encode(const Bpe& bpe, const std::vector<std::string>& words) {
  Ids ids;
  const auto call = bpe.start(ids);
  for (const std::string& word : words) call->add(word);
  return ids;
}

Ids encode(const Bpe& bpe, const std::string& word) { return encode(bpe, std::vector{word}); }

// The definition: while a merge applies, take the most urgent one at its leftmost place.
Ids reference_word(const std::vector<BpeVocabulary::Merge>& merges, Ids ids) {
  for (bool merged = true; merged;) {
    merged = false;
    for (const auto& merge : merges) {
      for (size_t i = 0; i + 1 < ids.size() && !merged; ++i) {
        if (ids[i] != merge.left || ids[i + 1] != merge.right) continue;
        ids[i] = merge.result;
        ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        merged = true;
      }
      if (merged) break;
    }
  }
  return ids;
}

}  // namespace

// By hand: 256 = "he", 257 = "ll", 258 = "llo", 259 = "hello". In "hell" the last merge finds no "llo".
TEST_CASE("a tiny vocabulary, by hand") {
  const Bpe bpe = make({{"h", "e"}, {"l", "l"}, {"ll", "o"}, {"he", "llo"}});
  CHECK(encode(bpe, "hello") == Ids{259});
  CHECK(encode(bpe, "hell") == Ids{256, 257});
  CHECK(encode(bpe, "lllo") == Ids{257, 'l', 'o'});
  CHECK(encode(bpe, std::vector<std::string>{"hello", " ", "hello"}) == Ids{259, ' ', 259});
  CHECK(encode(bpe, "").empty());
}

TEST_CASE("the merge learnt first goes first, wherever it stands") {
  CHECK(encode(make({{"b", "c"}, {"a", "b"}}), "abc") == Ids{'a', 256});
  CHECK(encode(make({{"a", "b"}, {"b", "c"}}), "abc") == Ids{256, 'c'});
  CHECK(encode(make({{"a", "a"}}), "aaaaa") == Ids{256, 256, 'a'});
}

TEST_CASE("bytes that are no character stand alone") {
  const Bpe bpe = make({{"\xff", "\xff"}});
  Ids ids;
  const auto call = bpe.start(ids);
  call->add_byte(0xff);
  call->add_byte(0xff);
  CHECK(ids == Ids{0xff, 0xff});
}

TEST_CASE("with ignore_merges a whole word that is a token becomes it") {
  const std::vector<std::pair<std::string, std::string>> merges = {{"b", "c"}, {"a", "b"}, {"ab", "c"}};
  CHECK(encode(make(merges), "abc") == Ids{'a', 256});
  CHECK(encode(make(merges, true), "abc") == Ids{258});
}

TEST_CASE("random merges on random words agree with the definition") {
  base::Rng rng(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> pieces = {"a", "b", "c"};
    std::vector<std::pair<std::string, std::string>> merges;
    std::map<std::pair<std::string, std::string>, bool> seen;
    for (int m = 0; m < 8; ++m) {
      const auto pair = std::pair(pieces[rng.below(pieces.size())], pieces[rng.below(pieces.size())]);
      if (!seen.emplace(pair, true).second) continue;
      merges.push_back(pair);
      pieces.push_back(pair.first + pair.second);
    }
    const Vocabulary vocabulary(merges);
    std::string word;
    while (word.size() < 30) word += static_cast<char>('a' + rng.below(3));
    REQUIRE(encode(Bpe(vocabulary.parts), word) ==
            reference_word(vocabulary.parts.merges, Ids(word.begin(), word.end())));
  }
}

}  // namespace choir::text
