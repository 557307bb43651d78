#include "io/json.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "io/test_files.h"

namespace choir::io {
namespace {

std::string refusal(std::string_view text) {
  return refusal_of([&] { parse_json(text, "some.json"); });
}

TEST_CASE("a value of every kind is read as it stands") {
  const Json json =
      parse_json(R"( {"a":[1,-2,0.5,1e3],"b":{"c":null,"d":true},"e":"\u00e9\n\u0000","f":[],"g":{}} )", "x");
  CHECK(json["a"] == Json::array({1, -2, 0.5, 1000.0}));
  CHECK(json["b"]["c"].is_null());
  CHECK(json["b"]["d"] == true);
  CHECK(json["e"].get<std::string>() == std::string("\xc3\xa9\n\0", 4));
  CHECK(json["f"].is_array());
  CHECK(json["g"].is_object());
  CHECK(parse_json("[18446744073709551615]", "x")[0].get<uint64_t>() == UINT64_MAX);
  CHECK(parse_json("7", "x") == 7);
}

TEST_CASE("what is not exactly one JSON value is refused with file, byte and line") {
  CHECK(contains(refusal(""), "some.json: byte 0"));
  CHECK(contains(refusal("{\n\"a\": x}"), "some.json: byte 8 (line 2)"));
  for (std::string_view text : {"{} {}", "[1,]", "{\"a\":1,}", "[1] // note", "'a'", "[NaN]", "[Infinity]", "[1e999]",
                                "[01]", "{", "[", "\"abc", "{\"a\"}", "nul", "\"\t\"", "\"\\ud800\""})
    CHECK_MESSAGE(contains(refusal(text), "not valid JSON"), std::string(text));
}

TEST_CASE("bytes that are not UTF-8 are refused") {
  for (std::string_view text : {"\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xe2\x82\"", "\xff"})
    CHECK(contains(refusal(text), "not valid JSON"));
}

TEST_CASE("a NUL does not end the text") {
  using namespace std::string_view_literals;
  CHECK(contains(refusal("{}\0{\"evil\":1}"sv), "NUL byte in JSON: some.json: byte 2"));
  CHECK(contains(refusal("\0"sv), "NUL byte"));
}

TEST_CASE("a key that stands twice is refused, equal keys of different objects are not") {
  CHECK(contains(refusal(R"({"a":1,"b":2,"a":3})"), "the key \"a\" stands twice in one object: some.json: byte 16"));
  CHECK(contains(refusal(R"({"a":{"x":1,"\u0078":2}})"), "\"x\" stands twice"));
  CHECK(parse_json(R"([{"a":1},{"a":{"a":2}}])", "x")[1]["a"]["a"] == 2);
}

TEST_CASE("depth is limited and hostile depth costs no stack") {
  const std::string deepest = std::string(kMostJsonDepth, '[') + std::string(kMostJsonDepth, ']');
  CHECK(parse_json(deepest, "x").is_array());
  CHECK(contains(refusal("[" + deepest + "]"), "nested more than 64 levels"));
  CHECK(contains(refusal(std::string(10'000'000, '[')), "nested more than 64 levels"));
}

TEST_CASE("size is limited before anything is parsed") {
  CHECK(contains(refusal(std::string(kMostJsonBytes + 1, ' ')), "at most 67108864 bytes"));
}

TEST_CASE("a hostile name does not flood the message") {
  const std::string name(100'000, 'n');
  CHECK(refusal("{\"" + name + "\":1,\"" + name + "\":2}").size() < 400);
}

TEST_CASE("files are read, and absent files refused by name") {
  const TemporaryDirectory dir;
  base::write_file(dir.file("a.json"), R"({"k": 3})", base::Existing::kRefuse);
  CHECK(read_json(dir.file("a.json"))["k"] == 3);
  CHECK(contains(refusal_of([&] { read_json(dir.file("b.json")); }), "b.json"));
}

TEST_CASE("fields are read by name, type and range") {
  const Json json =
      parse_json(R"({"i":8,"n":-3,"x":1e-5,"big":9223372036854775807,"t":true,"s":"silu","o":{"y":1}})", "x");
  const Fields fields(json, "config.json");
  CHECK(fields.get_int("i", 1, 8) == 8);
  CHECK(fields.get_int("n", -3, 0) == -3);
  CHECK(fields.get_int("big", 0, INT64_MAX) == INT64_MAX);
  CHECK(fields.get_number("x", 0, 1) == 1e-5);
  CHECK(fields.get_number("i", 0, 100) == 8.0);
  CHECK(fields.get_bool("t"));
  CHECK(fields.get_string("s") == "silu");
  CHECK(fields.get_object("o").get_int("y", 0, 1) == 1);
  CHECK(fields.has("i"));
  CHECK_FALSE(fields.has("absent"));
}

TEST_CASE("missing and null fields take the fallback, present ones do not") {
  const Json json = parse_json(R"({"null":null,"i":8,"f":false,"s":"a"})", "x");
  const Fields fields(json, "config.json");
  CHECK_FALSE(fields.has("null"));
  for (const char* key : {"null", "absent"}) {
    CHECK(fields.get_int(key, 0, 9, 5) == 5);
    CHECK(fields.get_number(key, 0, 9, 0.5) == 0.5);
    CHECK(fields.get_bool(key, true));
    CHECK(fields.get_string(key, "none") == "none");
    CHECK(contains(refusal_of([&] { fields.get_int(key, 0, 9); }), "a field is missing: config.json: field \""));
    CHECK(contains(refusal_of([&] { fields.get_number(key, 0, 9); }), key));
    CHECK(contains(refusal_of([&] { fields.get_bool(key); }), key));
    CHECK(contains(refusal_of([&] { fields.get_string(key); }), key));
    CHECK(contains(refusal_of([&] { fields.get_object(key); }), key));
  }
  CHECK(fields.get_int("i", 0, 9, 5) == 8);
  CHECK_FALSE(fields.get_bool("f", true));
  CHECK(fields.get_string("s", "none") == "a");
}

TEST_CASE("wrong types and ranges are refused even where there is a fallback") {
  const Json json = parse_json(R"({"i":8,"x":1.5,"s":"8","huge":9223372036854775808,"neg":-1,"one":1})", "x");
  const Fields fields(json, "config.json");
  CHECK(contains(refusal_of([&] { fields.get_int("i", 9, 20, 9); }),
                 "config.json: field \"i\": it must be an integer from 9 to 20"));
  for (const char* key : {"x", "s", "huge", "neg"})
    CHECK(contains(refusal_of([&] { fields.get_int(key, 0, INT64_MAX); }), key));
  CHECK(contains(refusal_of([&] { fields.get_number("x", 0, 1); }), "a finite number from 0 to 1"));
  CHECK(contains(refusal_of([&] { fields.get_number("s", 0, 1); }), "\"s\""));
  CHECK(contains(refusal_of([&] { fields.get_bool("one", true); }), "true or false"));
  CHECK(contains(refusal_of([&] { fields.get_string("i", "a"); }), "a string"));
  CHECK(contains(refusal_of([&] { fields.get_object("i"); }), "not a JSON object"));
  CHECK(contains(refusal_of([&] { Fields(json["i"], "config.json"); }), "not a JSON object: config.json"));
}

}  // namespace
}  // namespace choir::io
