// Encodes texts and decodes them again, for tests that compare with other implementations.
//
//   tokenize_texts TOKENIZER TEXTS OUT
//
// TEXTS are separated by NUL. Writes OUT.ids: the framed ids of each text as i32, each text ended by -1; OUT.keep and
// OUT.skip: what the ids decode to with and without special tokens, separated by NUL.
#include <cstdio>
#include <exception>
#include <string>

#include "base/atomic_output.h"
#include "base/mapped_file.h"
#include "text/tokenizer.h"

namespace {

using namespace choir;

void run(const std::string& tokenizer_path, const std::string& texts, const std::string& out) {
  const auto tokenizer = text::load_tokenizer(tokenizer_path);
  std::string ids, keep, skip;
  for (size_t begin = 0; begin <= texts.size();) {
    const size_t end = std::min(texts.find('\0', begin), texts.size());
    auto encoded = tokenizer->framed(tokenizer->encode(std::string_view(texts).substr(begin, end - begin)));
    keep += tokenizer->decode(encoded, text::Specials::kKeep) + '\0';
    skip += tokenizer->decode(encoded) + '\0';
    encoded.push_back(-1);
    ids.append(reinterpret_cast<const char*>(encoded.data()), encoded.size() * sizeof(encoded[0]));
    begin = end + 1;
  }
  base::write_file(out + ".ids", ids, base::Existing::kReplace);
  base::write_file(out + ".keep", keep, base::Existing::kReplace);
  base::write_file(out + ".skip", skip, base::Existing::kReplace);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: tokenize_texts TOKENIZER TEXTS OUT\n");
    return 2;
  }
  try {
    run(argv[1], base::read_file(argv[2]), argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
  return 0;
}
