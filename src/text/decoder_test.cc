#include "text/decoder.h"

#include <doctest/doctest.h>

namespace choir::text {
namespace {

using namespace decode;

std::string run(std::vector<Step> steps, const std::string& name, bool first = false, bool added = false) {
  return Decoder(std::move(steps)).bytes(name, first, added);
}

}  // namespace

TEST_CASE("names become bytes") {
  CHECK(run({ByteLetters{}}, "ĠcafÃ©") == " café");
  CHECK(run({ByteLetters{}}, "<é 漢>") == "<é 漢>");     // no name of bytes
  CHECK(run({ByteLetters{}}, "é", false, true) == "é");  // an added token means itself
  CHECK(run({ByteFallback{}}, "<0xE6>") == "\xe6");
  for (const char* name : {"<0xE>", "<0xG0>", "<0x 1>", "<0x+1>", "0xE6>", "<0xE6>x"})
    CHECK(run({ByteFallback{}}, name) == name);
}

TEST_CASE("marks become blanks, and the first token may lose them") {
  CHECK(run({Metaspace{"▁", true}}, "▁a▁b", true) == "ab");
  CHECK(run({Metaspace{"▁", true}}, "▁a▁b") == " a b");
  CHECK(run({Metaspace{"▁", false}}, "▁a", true) == " a");
  CHECK(run({JoinWithBlanks{}}, "a", true) == "a");
  CHECK(run({JoinWithBlanks{}}, "a") == " a");
}

TEST_CASE("texts in place of others, and less at the ends") {
  const auto letters = std::make_shared<const Regex>("[ab]+", "test");
  CHECK(run({Replace{"▁", " "}, Strip{" ", 1, 2}}, "▁▁a▁▁▁") == " a ");
  CHECK(run({ReplaceMatches{letters, "x"}}, "abcab") == "xcx");
  CHECK(run({ByteFallback{}, ReplaceMatches{letters, "x"}}, "<0xFF>") == "\xff");
}

}  // namespace choir::text
