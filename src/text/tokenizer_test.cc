#include "text/tokenizer.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/bpe_trainer.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;
namespace fs = std::filesystem;

std::unique_ptr<const Tokenizer> trained() {
  BpeTrainer trainer({400, {"<|endoftext|>"}});
  for (int i = 0; i < 3; ++i) trainer.add("the quick brown fox, 漢字 und Füße: \xf0\x9f\x98\x80 the thing, the rest");
  return trainer.train();
}

// tokenizer.json of GPT-2 from the two files that OpenAI published.
std::unique_ptr<const Tokenizer> gpt2() {
  json root = json::parse(R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "merges": []}})");
  root["model"]["vocab"] = json::parse(slurp(shared_file("tokenizer-gpt2/encoder.json")));
  root["added_tokens"] = json::array({{{"id", 50256}, {"content", "<|endoftext|>"}, {"special", true}}});
  std::istringstream lines(slurp(shared_file("tokenizer-gpt2/vocab.bpe")));
  std::string line;
  while (std::getline(lines, line))
    if (!line.empty() && !line.starts_with("#version")) root["model"]["merges"].push_back(line);
  return parse_tokenizer(root.dump(), "gpt-2");
}

void check_round_trip(const Tokenizer& tokenizer, const std::string& text) {
  const Ids ids = tokenizer.encode(text);
  REQUIRE(tokenizer.decode(ids, Specials::kKeep) == text);
  REQUIRE(tokenizer.decode(tokenizer.encode_ordinary(text)) == text);
  StreamDecoder stream(tokenizer, Specials::kKeep);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  REQUIRE(streamed + stream.flush() == text);
}

// Unpacks into a new directory that the destructor removes.
struct Unpacked {
  explicit Unpacked(const std::string& zip) {
    const std::string command = "unzip -qo '" + zip + "' -d '" + path.string() + "' 2>/dev/null";
    done = fs::exists(zip) && std::system(command.c_str()) == 0;
  }
  ~Unpacked() { fs::remove_all(path); }

  fs::path path = fs::temp_directory_path() /
                  ("choir_text_test_" +
                   std::to_string(base::Rng(fs::file_time_type::clock::now().time_since_epoch().count()).next()));
  bool done = false;
};

}  // namespace

TEST_CASE("random bytes come back") {
  const auto tokenizer = trained();
  base::Rng rng(3);
  for (size_t size = 0; size < 300; ++size) check_round_trip(*tokenizer, random_bytes(rng, size));
}

TEST_CASE("special tokens in text, in ordinary text, and decoded") {
  const auto tokenizer = trained();
  const Ids ids = tokenizer->encode("the<|endoftext|> the");
  CHECK(ids == Ids{tokenizer->id_of("the").value(), 0, tokenizer->id_of("Ġthe").value()});
  CHECK(tokenizer->decode(ids) == "the the");
  CHECK(tokenizer->decode(ids, Specials::kKeep) == "the<|endoftext|> the");
  for (const int32_t id : tokenizer->encode_ordinary("<|endoftext|>")) CHECK(id != 0);
  CHECK(tokenizer->is_special(0));
  CHECK_FALSE(tokenizer->is_special(1));
}

TEST_CASE("ids outside the vocabulary are refused") {
  const auto tokenizer = trained();
  CHECK_THROWS_AS(tokenizer->decode(Ids{tokenizer->vocab_size()}), base::Error);
  CHECK_THROWS_AS(tokenizer->decode(Ids{-1}), base::Error);
  CHECK_THROWS_AS(StreamDecoder(*tokenizer).push(-1), base::Error);
}

TEST_CASE("a stream shows whole characters only, and bad bytes as they are") {
  const auto tokenizer = trained();
  StreamDecoder stream(*tokenizer);
  const auto push = [&](int byte) { return stream.push(1 + byte); };  // byte tokens follow the one special token
  CHECK(push('a') == "a");
  CHECK(push(0xe6) == "");
  CHECK(push(0xbc) == "");
  CHECK(push(0xa2) == "漢");
  CHECK(push(0xf0) == "");
  CHECK(push('x') == "\xf0x");
  CHECK(push(0xff) == "\xff");
  CHECK(stream.push(0) == "");
  CHECK(push(0xc3) == "");
  CHECK(stream.flush() == "\xc3");
  CHECK(stream.flush() == "");
}

TEST_CASE("a written file is the same tokenizer") {
  const auto tokenizer = trained();
  const fs::path path = fs::temp_directory_path() / "choir_text_test_tokenizer.json";
  write_tokenizer_json(*tokenizer, path.string(), base::Existing::kReplace);
  const auto again = load_tokenizer(path.string());
  fs::remove(path);
  CHECK(again->json() == tokenizer->json());
  CHECK(again->encode("the quick Füße") == tokenizer->encode("the quick Füße"));
  CHECK_THROWS_AS(load_tokenizer("/nowhere/tokenizer.json"), base::Error);
}

TEST_CASE("GPT-2 agrees with the published fixtures") {
  const std::string pair = shared_file("tokenizer-llamacpp-fixtures/ggml-vocab-gpt-2.gguf");
  if (!fs::exists(pair + ".inp") || !fs::exists(shared_file("tokenizer-gpt2/encoder.json"))) {
    MESSAGE("skipped: GPT-2 fixtures absent");
    return;
  }
  const auto tokenizer = gpt2();
  CHECK(tokenizer->vocab_size() == 50257);
  CHECK(tokenizer->end_of_text() == 50256);
  const auto texts = fixture_texts(slurp(pair + ".inp"));
  REQUIRE(texts.size() == 46);
  std::istringstream lines(slurp(pair + ".out"));
  for (const std::string& text : texts) {
    const Ids expected = next_ids(lines);
    CAPTURE(text);
    CHECK(tokenizer->encode(text) == expected);
    check_round_trip(*tokenizer, text);
  }
}

TEST_CASE("the declaration of human rights in all its languages comes back") {
  const Unpacked udhr(shared_file("udhr/udhr2.zip"));
  if (!udhr.done) {
    MESSAGE("skipped: udhr or unzip absent");
    return;
  }
  const auto tokenizer = trained();
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(udhr.path)) {
    if (!entry.is_regular_file()) continue;
    check_round_trip(*tokenizer, slurp(entry.path().string()));
    ++files;
  }
  CHECK(files >= 388);
}

}  // namespace choir::text
