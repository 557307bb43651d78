#include "moe/arguments.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace choir::moe {
namespace {

template <class Read>
std::string refusal_of(const std::string& text, const Read& read) {
  try {
    const Phrase phrase = parse_phrase(text);
    Arguments arguments(phrase);
    read(arguments);
    arguments.done();
  } catch (const base::Error& error) {
    CHECK(error.fault == base::Fault::kUsage);
    return error.what();
  }
  return "";
}

std::string refusal_of(const std::string& text) {
  return refusal_of(text, [](Arguments& a) {
    a.flag("flag");
    a.name("mode", {"one", "two"});
    a.number("x", 0, 10, 1);
    a.whole("n", 1, 5, 2);
  });
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("arguments: brackets within brackets, keys and names") {
  const Phrase p = parse_phrase("a(b,k=c(1,x=2),d)");
  CHECK(p.name == "a");
  REQUIRE(p.arguments.size() == 3);
  CHECK(p.arguments[0].name == "b");
  CHECK(p.arguments[1].key == "k");
  CHECK(p.arguments[1].name == "c");
  CHECK(p.arguments[1].arguments[1].key == "x");
  CHECK(p.arguments[1].arguments[1].name == "2");
}

TEST_CASE("arguments: broken phrases are refused") {
  for (const std::string text :
       {"",   "(",     ")",     "a(",     "a)",    "a(b",      "a(b))", "a(,b)",   "a(b,)", "a()", "=a",
        "a=", "a(k=)", "a(=1)", "a((b))", "a(b)c", "a(k=j=1)", "(b)",   "a(b)(c)", "a,b",   "k=a"}) {
    CAPTURE(text);
    CHECK(!refusal_of(text, [](Arguments& a) {
             while (a.phrase("anything")) {
             }
           }).empty());
  }
  std::string deep = "x";
  for (int i = 0; i < 2000; ++i) deep = "a(" + deep + ")";
  CHECK_THROWS_AS(parse_phrase(deep), base::Error);
}

TEST_CASE("arguments: values by key in any order, by place, and left out") {
  for (const std::string text :
       {"w(3,4)", "w(x=3,n=4)", "w(n=4,x=3)", "w(4,x=3)", "w(n=4,3)", "w(mode=two,3,flag,4)"}) {
    CAPTURE(text);
    CHECK(refusal_of(text, [](Arguments& a) {
            a.flag("flag");
            a.name("mode", {"one", "two"});
            CHECK(a.number("x", 0, 10, 1) == 3);
            CHECK(a.whole("n", 1, 5, 2) == 4);
            CHECK(!a.has_more());
          }).empty());
  }
  CHECK(refusal_of("w", [](Arguments& a) {
          CHECK(!a.flag("flag"));
          CHECK(a.name("mode", {"one", "two"}) == "one");
          CHECK(a.number("x", 0, 10, 1.5) == 1.5);
          CHECK(a.whole("n", 1, 5, 2) == 2);
        }).empty());
}

TEST_CASE("arguments: what is refused is named, with its range or what is known") {
  CHECK(contains(refusal_of("w(11)"), "x from 0 to 10"));
  CHECK(contains(refusal_of("w(x=-1)"), "out of range"));
  CHECK(contains(refusal_of("w(x=nan)"), "out of range"));
  CHECK(contains(refusal_of("w(x=two)"), "\"two\" is not a number"));
  CHECK(contains(refusal_of("w(x=2(3))"), "not a number"));
  CHECK(contains(refusal_of("w(1,2.5)"), "not a whole number"));
  CHECK(contains(refusal_of("w(mode=three)"), "one, two"));
  CHECK(contains(refusal_of("w(mode=one(2))"), "unknown mode"));
  CHECK(contains(refusal_of("w(y=1)"), "unexpected argument \"y=1\""));
  CHECK(contains(refusal_of("w(1,2,3)"), "unexpected argument \"3\""));
  CHECK(contains(refusal_of("w(x=1,x=2)"), "unexpected argument \"x=2\""));
  CHECK(contains(refusal_of("w(flag,flag)"), "\"flag\""));
  CHECK(contains(refusal_of("w", [](Arguments& a) { a.number("x", 0, 10); }), "lacks x from 0 to 10"));
}

TEST_CASE("arguments: a flag with brackets is no flag") { CHECK(!refusal_of("w(flag(3))").empty()); }

TEST_CASE("arguments: words are written without what is the default") {
  CHECK(written("w", {}) == "w");
  CHECK(written("w", {"", ""}) == "w");
  CHECK(written("w", {"1", "", "k=2"}) == "w(1, k=2)");
  CHECK(unless("k", 0.1f, 0.1f).empty());
  CHECK(unless("k", 0.25f, 0.1f) == "k=0.25");
  CHECK(written(0.1f) == "0.1");
}

}  // namespace
}  // namespace choir::moe
