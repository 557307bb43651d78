#include "text/added_tokens.h"

#include <doctest/doctest.h>

namespace choir::text {
namespace {

std::string shown(const AddedTokens& added, const std::string& text, bool specials) {
  std::string result;
  for (const auto& piece : added.cut(text, specials)) {
    result.append("[").append(piece.text);
    if (piece.id >= 0) result.append("=").append(std::to_string(piece.id));
    result.append("]");
  }
  return result;
}

}  // namespace

TEST_CASE("the leftmost added token wins, then the longest") {
  const AddedTokens added({{1, "<a>", true, false}, {2, "<a><b>", true, false}, {3, "  ", false, false}});
  CHECK(shown(added, "x<a>y<a><b><a", true) == "[x][<a>=1][y][<a><b>=2][<a]");
  CHECK(shown(added, "x<a>   y", false) == "[x<a>][  =3][ y]");
  CHECK(shown(added, "", true).empty());
}

TEST_CASE("normalized tokens are looked for where the others left text") {
  const AddedTokens added({{1, "ab", false, true}, {2, "bc", false, false}});
  CHECK(shown(added, "abcab", true) == "[a][bc=2][ab=1]");
}

TEST_CASE("special by id") {
  const AddedTokens added({{7, "x", true, false}, {3, "y", false, true}, {5, "z", true, false}});
  CHECK(added.is_special(7));
  CHECK(added.is_special(5));
  CHECK_FALSE(added.is_special(3));
  CHECK_FALSE(added.is_special(6));
}

}  // namespace choir::text
