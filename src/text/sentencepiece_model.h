// tokenizer.model: the model file of SentencePiece, a protobuf message (src/sentencepiece_model.proto).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace choir::text {

struct SentencePieceModel {
  enum Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  enum Kind { kUnigram = 1, kBpe = 2 };

  struct Token {
    std::string text;
    float score = 0;
    int type = kNormal;
  };

  std::vector<Token> tokens;  // by id
  int kind = kUnigram;
  bool byte_fallback = false;
  bool spaces_as_suffix = false;
  bool add_dummy_prefix = true, remove_extra_spaces = true, escape_spaces = true;
  std::string charsmap;
  std::vector<int32_t> before, after;  // ids around a text; the file does not say
};

// Throws Error (input) that names `where` and the byte.
SentencePieceModel read_sentencepiece(std::string_view file, const std::string& where);

// Ids are those of spm_encode; tokens of the types unknown and control are special. Throws Error (input).
std::unique_ptr<const Tokenizer> make_tokenizer(const SentencePieceModel& model, const std::string& where);

}  // namespace choir::text
