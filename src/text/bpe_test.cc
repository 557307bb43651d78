#include "text/bpe.h"

#include <doctest/doctest.h>

#include <map>

#include "text/test_support.h"

namespace choir::text {
namespace {

using Ids = std::vector<int32_t>;

// The 256 bytes, then one token for every merge of the bytes of two tokens.
Bpe make(const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges = false) {
  BpeVocabulary vocabulary;
  std::map<std::string, int32_t> ids;
  const auto id_of = [&](const std::string& bytes) {
    const auto [at, fresh] = ids.emplace(bytes, static_cast<int32_t>(vocabulary.tokens.size()));
    if (fresh) vocabulary.tokens.push_back({byte_level_name(bytes), bytes});
    return at->second;
  };
  for (int byte = 0; byte < 256; ++byte) vocabulary.bytes[byte] = id_of(std::string(1, static_cast<char>(byte)));
  for (const auto& [left, right] : merges)
    vocabulary.merges.push_back({id_of(left), id_of(right), id_of(left + right)});
  vocabulary.ignore_merges = ignore_merges;
  return Bpe(std::move(vocabulary), Pretokenizer({kGpt2Pattern}, "test"));
}

Ids encode(const Bpe& bpe, std::string_view text) {
  Ids ids;
  bpe.encode(text, ids);
  return ids;
}

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
  CHECK(bpe.vocab_size() == 260);
  CHECK(encode(bpe, "hello") == Ids{259});
  CHECK(encode(bpe, "hell") == Ids{256, 257});
  CHECK(encode(bpe, "lllo") == Ids{257, 'l', 'o'});
  CHECK(encode(bpe, "hello hello") == Ids{259, ' ', 259});
  CHECK(encode(bpe, "").empty());
  CHECK(bpe.id_of("hello") == 259);
  CHECK(bpe.id_of("Ġ") == ' ');
  CHECK_FALSE(bpe.id_of("xyz").has_value());
}

TEST_CASE("the merge learnt first goes first, wherever it stands") {
  CHECK(encode(make({{"b", "c"}, {"a", "b"}}), "abc") == Ids{'a', 256});
  CHECK(encode(make({{"a", "b"}, {"b", "c"}}), "abc") == Ids{256, 'c'});
  CHECK(encode(make({{"a", "a"}}), "aaaaa") == Ids{256, 256, 'a'});
}

TEST_CASE("invalid bytes stand alone") {
  const Bpe bpe = make({{"\xff", "\xff"}, {"a", "b"}});
  CHECK(encode(bpe,
               "ab\xff\xff"
               "ab") == Ids{257, 0xff, 0xff, 257});
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
    const Bpe bpe = make(merges);
    std::vector<BpeVocabulary::Merge> ids;
    for (const auto& [left, right] : merges)
      ids.push_back({bpe.id_of(left).value(), bpe.id_of(right).value(), bpe.id_of(left + right).value()});
    std::string word;
    while (word.size() < 30) word += static_cast<char>('a' + rng.below(3));
    REQUIRE(encode(bpe, word) == reference_word(ids, Ids(word.begin(), word.end())));
  }
}

}  // namespace choir::text
