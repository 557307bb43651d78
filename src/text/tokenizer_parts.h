// What a tokenizer is made of, whichever file it comes from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/token_model.h"

namespace choir::text {

struct TokenizerParts {
  std::vector<std::string> names;  // by id; empty where no token has the id
  std::vector<AddedToken> added;
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  std::unique_ptr<const TokenModel> model;
  std::vector<int32_t> before, after;  // ids around a text
  Decoder decoder;
  std::string json;  // the file, or empty
};

// A file that claims more tokens is refused.
inline constexpr int64_t kMostTokens = int64_t{1} << 24;

}  // namespace choir::text
