#include "text/normalizer.h"

#include <doctest/doctest.h>

#include <cstring>

#include "base/error.h"
#include "base/rng.h"

namespace choir::text {
namespace {

using namespace normalize;

std::string run(Step step, const std::string& text) { return Normalizer({std::move(step)}).apply(text, Place::kBegin); }

// A table by hand: "A" becomes "a", "AB" becomes "", "é" becomes "e". A unit is a label, whether a value hangs below,
// and the way (by exclusive or) to what comes next.
std::string table_blob() {
  uint32_t units[1024] = {};
  const auto put = [&](uint32_t at, uint32_t label, bool leaf, uint32_t next) {
    units[at] = label | (leaf ? 1u << 8 : 0) | (at ^ next) << 10;
  };
  const std::string texts = std::string("a\0\0e", 4);  // at 0: "a", at 2: "", at 3: "e"
  units[0] = 1u << 10;                                 // the root's children lie at 1 ^ byte
  const uint32_t a = 1 ^ 'A', below_a = 512;
  put(a, 'A', true, below_a);
  units[below_a] = 0u | 1u << 31;
  put(below_a ^ 'B', 'B', true, 300);
  units[300] = 2u | 1u << 31;
  const uint32_t lead = 1 ^ 0xc3, below_lead = 768;
  put(lead, 0xc3, false, below_lead);
  put(below_lead ^ 0xa9, 0xa9, true, 301);
  units[301] = 3u | 1u << 31;
  std::string blob(4, '\0');
  const uint32_t size = sizeof(units);
  std::memcpy(blob.data(), &size, 4);
  return blob.append(reinterpret_cast<const char*>(units), size) + texts;
}

std::shared_ptr<const Charsmap> table() { return std::make_shared<const Charsmap>(table_blob(), "test"); }

SentencePiece rules(std::shared_ptr<const Charsmap> map) { return {std::move(map), {}, true, true, true, false}; }

}  // namespace

// UAX #15, figures 3 to 6.
TEST_CASE("the four forms of Unicode") {
  const std::string text = "\u1e69 s\u0307\u0323 \ufb01 2\u2075 \u212b \uac00";
  CHECK(run(Unicode{Form::kNfc}, text) == "\u1e69 \u1e69 \ufb01 2\u2075 \u00c5 \uac00");
  CHECK(run(Unicode{Form::kNfd}, text) == "s\u0323\u0307 s\u0323\u0307 \ufb01 2\u2075 A\u030a \u1100\u1161");
  CHECK(run(Unicode{Form::kNfkc}, text) == "\u1e69 \u1e69 fi 25 \u00c5 \uac00");
  CHECK(run(Unicode{Form::kNfkd}, text) == "s\u0323\u0307 s\u0323\u0307 fi 25 A\u030a \u1100\u1161");
}

// Cutting at ASCII letters must not show: the form of the whole is that of its pieces put together at any ASCII letter.
TEST_CASE("a text's form does not depend on where it is cut for it") {
  base::Rng rng(5);
  const std::vector<std::string> parts = {"a",      "e",      "\u0301", "\u0323", "é", "\u1100",
                                          "\u1161", "\u11a8", " ",      "Å",      "ﬁ"};
  for (int round = 0; round < 300; ++round) {
    std::string text, glued;
    for (int i = 0; i < 8; ++i) text += parts[rng.below(parts.size())];
    const std::string foreign = "\u00e5" + text;  // does not begin with ASCII
    for (const Form form : {Form::kNfc, Form::kNfd, Form::kNfkc, Form::kNfkd})
      CHECK(run(Unicode{form}, "xyz" + run(Unicode{form}, foreign)) == run(Unicode{form}, "xyz" + foreign));
  }
}

TEST_CASE("small letters, accents, blanks and controls") {
  CHECK(run(Lowercase{}, "ÄÉA İ ẞ") == "äéa i\u0307 ß");
  CHECK(run(StripAccents{}, "e\u0301a\u0323 é") == "ea é");
  CHECK(run(Strip{true, true}, "\u3000 a b\u00a0\n") == "a b");
  CHECK(run(Strip{true, false}, "  a ") == "a ");
  CHECK(run(Strip{false, true}, "   ").empty());
  CHECK(run(Nmt{},
            "a\tb\u200bc\x01"
            "d\ufeff") == "a b cd ");
  CHECK(uppercase("straße é") == "STRASSE É");
}

TEST_CASE("texts in front and in place of others") {
  CHECK(run(Prepend{"▁"}, "a") == "▁a");
  CHECK(run(Prepend{"▁"}, "").empty());
  CHECK(run(Replace{" ", "▁"}, "a  b ") == "a▁▁b▁");
  const auto spaces = std::make_shared<const Regex>(" {2,}", "test");
  CHECK(run(ReplaceMatches{spaces, "."}, "a  b   c d") == "a.b.c d");
  const auto nothing = std::make_shared<const Regex>("x*", "test");
  CHECK(run(ReplaceMatches{nothing, "-"}, "axb") == "-a-b-");
}

TEST_CASE("letters by a table: the shortest entry for a grapheme, the longest in SentencePiece") {
  CHECK(run(Precompiled{table()}, "A AB éx") == "a aB ex");
  CHECK(run(Precompiled{table()}, "A\u0301") == "a");  // the whole grapheme goes
  CHECK(run(rules(table()), "ABA") == "▁a");
  CHECK(run(rules(table()), "é") == "▁e");
}

TEST_CASE("a damaged table is refused or finds nothing") {
  for (const size_t size : {1, 4, 5, 1000}) CHECK_THROWS_AS(Charsmap(std::string(size, '\xff'), "test"), base::Error);
  std::string blob = table_blob();
  CHECK_THROWS_AS(Charsmap(blob + "\xff", "test"), base::Error);
  base::Rng rng(9);
  for (int round = 0; round < 300; ++round) {
    std::string damaged = blob;
    for (int i = 0; i < 20; ++i) damaged[4 + rng.below(4096)] = static_cast<char>(rng.below(256));
    const Charsmap map(damaged, "test");
    for (const char* text : {"A", "AB", "é", "ABé", "x"})
      if (const auto match = map.longest(text)) CHECK(match->size <= std::strlen(text));
  }
  CHECK(Charsmap("", "test").empty());
}

// By hand after src/normalizer.cc.
TEST_CASE("SentencePiece's own rules for blanks") {
  const auto none = std::make_shared<const Charsmap>("", "test");
  SentencePiece all = rules(none);
  CHECK(run(all, "  a   b ") == "▁a▁b");
  CHECK(run(all, "   ").empty());
  SentencePiece llama{none, {}, false, true, true, false};
  CHECK(run(llama, " a  b ") == "▁▁a▁▁b▁");
  SentencePiece bare{none, {}, false, false, false, false};
  CHECK(run(bare, " a  b ") == " a  b ");
  SentencePiece suffix{none, {}, true, true, true, true};
  CHECK(run(suffix, " a b ") == "a▁b▁");
  all.kept = {"A  B"};
  CHECK(run(all, "x  A  B") == "▁x▁A▁▁B");
}

}  // namespace choir::text
