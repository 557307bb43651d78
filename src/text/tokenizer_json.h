// The file format tokenizer.json of Hugging Face `tokenizers`, as far as Choir knows it (docs/formats.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_parts.h"

namespace choir::text {

// From the text of the file, which `json` of the result does not hold yet. Throws Error (input) that names `where`, the
// field, and what is wrong or not supported.
TokenizerParts read_tokenizer_parts(std::string_view text, const std::string& where);

// A byte-level BPE vocabulary to be written. Ids: the special tokens, then the tokens, both in order.
struct ByteLevelBpe {
  std::string pattern;                              // of the pre-tokenizer
  std::vector<std::string> special_tokens;          // valid UTF-8
  std::vector<std::string> tokens;                  // bytes
  std::vector<std::pair<int32_t, int32_t>> merges;  // ids
};

std::string byte_level_bpe_json(const ByteLevelBpe& bpe);

}  // namespace choir::text
