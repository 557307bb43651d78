#include "text/added_tokens.h"

#include <doctest/doctest.h>

namespace choir::text {
namespace {

std::string shown(const AddedTokens& added, const std::string& text, bool specials, bool normalized = false) {
  std::string result;
  for (const auto& piece : added.cut(text, specials, normalized)) {
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

TEST_CASE("normalized tokens are looked for by themselves") {
  const AddedTokens added({{1, "ab", false, true}, {2, "bc", false, false}});
  CHECK(shown(added, "abcab", true) == "[a][bc=2][ab]");
  CHECK(shown(added, "abcab", true, true) == "[ab=1][c][ab=1]");
}

TEST_CASE("a special token that wins hides the tokens inside it") {
  const AddedTokens added({{1, "<|x|>", true, false}, {2, "<|", false, false}});
  CHECK(shown(added, "<|x|><|y", false) == "[<|x|>][<|=2][y]");
}

TEST_CASE("tokens that take blanks, and tokens that stand alone") {
  AddedToken both{1, "<m>", false, false}, alone{2, "on", false, false};
  both.strip_left = both.strip_right = true;
  alone.single_word = true;
  const AddedTokens added({both, alone});
  CHECK(shown(added, "a \u3000<m>\n b<m><m> ", true) == "[a][ \u3000<m>\n =1][b][<m>=1][<m> =1]");
  CHECK(shown(added, "on once upon on_ (on) 火on on", true) == "[on=2][ once upon on_ (][on=2][) 火on ][on=2]");
}

TEST_CASE("special by id") {
  const AddedTokens added({{7, "x", true, false}, {3, "y", false, true}, {5, "z", true, false}});
  CHECK(added.is_special(7));
  CHECK(added.is_special(5));
  CHECK_FALSE(added.is_special(3));
  CHECK_FALSE(added.is_special(6));
}

}  // namespace choir::text
