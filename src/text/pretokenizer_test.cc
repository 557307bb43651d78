#include "text/pretokenizer.h"

#include <doctest/doctest.h>

#include <thread>

#include "base/error.h"

namespace choir::text {
namespace {

using Words = std::vector<std::string>;

Words split(const Words& patterns, const std::string& text) {
  Words words;
  Pretokenizer(patterns, "test").split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

}  // namespace

TEST_CASE("GPT-2's pattern") {
  CHECK(split({kGpt2Pattern}, "Hello world's 123  !?\n\n x") ==
        Words{"Hello", " world", "'s", " 123", " ", " !?", "\n\n", " x"});
  CHECK(split({kGpt2Pattern}, "é漢字 Ünï").size() == 2);
  CHECK(split({kGpt2Pattern}, "").empty());
}

TEST_CASE("single digits, and indentation stays one word") {
  CHECK(split({kSingleDigitsPattern}, "12 + 345") == Words{"1", "2", " +", " 3", "4", "5"});
  CHECK(split({kSingleDigitsPattern}, "{\n        return") == Words{"{", "\n       ", " return"});
}

TEST_CASE("several patterns cut one after the other, and what no pattern matches is a word") {
  CHECK(split({"\\d", "b+"}, "ab1bbc22") == Words{"a", "b", "1", "bb", "c", "2", "2"});
  CHECK(split({}, "all of it") == Words{"all of it"});
  CHECK(split({"x*"}, "axxb") == Words{"a", "xx", "b"});
}

TEST_CASE("\\s is the Unicode property White_Space, in and out of brackets") {
  CHECK(split({"\\s"}, "a\u00a0b\u2028c\u0085d\u3000e").size() == 9);
  CHECK(split({"\\s"}, "a\u180eb").size() == 1);
  CHECK(split({"[^\\s]+"}, "a\u180eb c").size() == 3);
  CHECK(split({"\\\\s"}, "a\\s b") == Words{"a", "\\s", " b"});
}

TEST_CASE("a bad pattern is refused") {
  CHECK_THROWS_AS(Pretokenizer({"(a"}, "file"), base::Error);
  CHECK_THROWS_AS(Pretokenizer({"\\C"}, "file"), base::Error);
}

TEST_CASE("threads may share one") {
  const Pretokenizer pretokenizer({kGpt2Pattern}, "test");
  std::vector<size_t> counts(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < counts.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) pretokenizer.split("one two three 4", [&](std::string_view) { ++counts[t]; });
    });
  for (auto& thread : threads) thread.join();
  CHECK(counts == std::vector<size_t>(4, 800));
}

}  // namespace choir::text
