// The vocabularies in llama.cpp's fixtures against its own ids.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>

#include "io/gguf.h"
#include "text/gguf_tokens.h"
#include "text/test_support.h"

namespace choir::text {
namespace {

namespace fs = std::filesystem;

// Packed files are unpacked into a temporary one.
io::GgufFile open_fixture(const std::string& path) {
  if (fs::exists(path)) return io::GgufFile(path);
  const fs::path plain = fs::temp_directory_path() / ("choir_fixture_" + fs::path(path).filename().string());
  const std::string command = "zstd -dqfo '" + plain.string() + "' '" + path + ".zst'";
  REQUIRE(std::system(command.c_str()) == 0);
  io::GgufFile file(plain.string());
  fs::remove(plain);  // it stays mapped
  return file;
}

}  // namespace

TEST_CASE("llama.cpp's vocabularies give llama.cpp's ids, and so does what is made of them as tokenizer.json") {
  const std::string folder = shared_file("tokenizer-llamacpp-fixtures/ggml-vocab-");
  if (!fs::exists(folder + "gpt-2.gguf") || std::system("command -v zstd >/dev/null") != 0) {
    MESSAGE("skipped: llama.cpp fixtures or zstd absent");
    return;
  }
  for (const char* name : {"deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-spm", "phi-3", "starcoder"}) {
    const std::string path = folder + name + ".gguf";
    const GgufVocabulary vocabulary = read_gguf_vocabulary(open_fixture(path).metadata());
    const auto tokenizer = make_tokenizer(vocabulary, name);
    const auto exported = parse_tokenizer(tokenizer_json_of(vocabulary, name), name);
    std::istringstream lines(slurp(path + ".out"));
    const auto texts = fixture_texts(slurp(path + ".inp"));
    REQUIRE(texts.size() == 46);
    for (const std::string& text : texts) {
      CAPTURE(name);
      CAPTURE(text);
      const std::vector<int32_t> ids = next_ids(lines);
      CHECK(tokenizer->encode(text) == ids);
      CHECK(exported->encode(text) == ids);
    }
  }
}

}  // namespace choir::text
