#include "text/pretokenizer.h"

#include <doctest/doctest.h>

#include <memory>
#include <thread>

#include "base/error.h"

namespace choir::text {
namespace {

using Words = std::vector<std::string>;

Words run(std::vector<cut::Step> steps, const std::string& text, Place place = Place::kBegin) {
  Words words;
  Pretokenizer::Arena arena;
  Pretokenizer(std::move(steps)).split(text, place, arena, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

Words split(const Words& patterns, const std::string& text) { return run(isolate_matches(patterns, "test"), text); }

Words split_by(const std::string& pattern, cut::Behavior behavior, const std::string& text, bool invert = false) {
  return run({cut::Split{std::make_shared<const Regex>(pattern, "test"), behavior, invert}}, text);
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
  CHECK(run({}, "all of it") == Words{"all of it"});
  CHECK(split({"x*"}, "axxb") == Words{"a", "xx", "b"});
}

TEST_CASE("\\s is the Unicode property White_Space, in and out of brackets") {
  CHECK(split({"\\s"}, "a\u00a0b\u2028c\u0085d\u3000e").size() == 9);
  CHECK(split({"\\s"}, "a\u180eb").size() == 1);
  CHECK(split({"[^\\s]+"}, "a\u180eb c").size() == 3);
  CHECK(split({"\\\\s"}, "a\\s b") == Words{"a", "\\s", " b"});
}

TEST_CASE("what becomes of matches") {
  using cut::Behavior;
  const std::string text = "a--b-c-";
  CHECK(split_by("-", Behavior::kIsolated, text) == Words{"a", "-", "-", "b", "-", "c", "-"});
  CHECK(split_by("-", Behavior::kRemoved, text) == Words{"a", "b", "c"});
  CHECK(split_by("-", Behavior::kContiguous, text) == Words{"a", "--", "b", "-", "c", "-"});
  CHECK(split_by("-", Behavior::kMergedWithPrevious, text) == Words{"a-", "-", "b-", "c-"});
  CHECK(split_by("-", Behavior::kMergedWithNext, text) == Words{"a", "-", "-b", "-c", "-"});
  CHECK(split_by("\\w", Behavior::kRemoved, text, true) == Words{"a", "b", "c"});
}

TEST_CASE("blanks become marks, and a text begins with one") {
  using Prepend = cut::Metaspace::Prepend;
  const auto marked = [](Prepend prepend, bool cuts, const std::string& text, Place place = Place::kBegin) {
    return run({cut::Metaspace{"▁", prepend, cuts}}, text, place);
  };
  CHECK(marked(Prepend::kAlways, true, "Hey  you") == Words{"▁Hey", "▁", "▁you"});
  CHECK(marked(Prepend::kAlways, false, " Hey you") == Words{"▁Hey▁you"});
  CHECK(marked(Prepend::kFirst, true, "Hey", Place::kBegin) == Words{"▁Hey"});
  CHECK(marked(Prepend::kFirst, true, "Hey", Place::kAfterToken) == Words{"Hey"});
  CHECK(marked(Prepend::kAlways, true, "Hey", Place::kInside) == Words{"Hey"});
  CHECK(marked(Prepend::kNever, true, "Hey you") == Words{"Hey", "▁you"});
}

TEST_CASE("patterns after ByteLevel see its letters, words are bytes") {
  std::vector<cut::Step> steps = {cut::PrefixSpace{}, cut::ByteLetters{}};
  CHECK(run(steps, "é x") == Words{" é x"});
  steps.push_back(isolate_matches({"Ġ", "Ã"}, "test")[0]);
  steps.push_back(isolate_matches({"Ã"}, "test")[0]);
  CHECK(run(steps, "é x") == Words{" ", "\xc3", "\xa9", " ", "x"});
}

TEST_CASE("a bad pattern is refused") {
  for (const char* pattern : {"(a", "\\C", "[a&&b]", "[a[bc]]", "a{2,3}+", "[\\W]"})
    CHECK_THROWS_AS(isolate_matches({pattern}, "file"), base::Error);
}

TEST_CASE("threads may share one") {
  const Pretokenizer pretokenizer(isolate_matches({kGpt2Pattern}, "test"));
  std::vector<size_t> counts(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < counts.size(); ++t)
    threads.emplace_back([&, t] {
      Pretokenizer::Arena arena;
      for (int i = 0; i < 200; ++i)
        pretokenizer.split("one two three 4", Place::kBegin, arena, [&](std::string_view) { ++counts[t]; });
    });
  for (auto& thread : threads) thread.join();
  CHECK(counts == std::vector<size_t>(4, 800));
}

}  // namespace choir::text
