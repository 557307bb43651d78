// tokenizer.model: the model file of SentencePiece, a protobuf message (src/sentencepiece_model.proto).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace choir::text {

struct GgufVocabulary;

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
  int32_t unknown = 0, bos = 1, eos = 2, padding = -1;  // what the file calls these tokens; -1: it has none
  std::vector<int32_t> before, after;                   // ids around a text; the file does not say
};

// Throws Error (input) that names `where` and the byte.
SentencePieceModel read_sentencepiece(std::string_view file, const std::string& where);

// What a BPE merges, the most urgent pair first, as `tokenizers` wants it: of equal scores first the longer left part
// (SpmConverter of transformers). Throws Error (input).
std::vector<std::pair<std::string, std::string>> merges_of(const SentencePieceModel& model, const std::string& where);

// By id what a Unigram adds up: the score, of user-defined tokens one that none of the others reaches.
std::vector<double> unigram_scores(const SentencePieceModel& model);

// The model that the lists of a GGUF file are, "llama" or "t5". Throws Error (input).
SentencePieceModel sentencepiece_of(const GgufVocabulary& vocabulary, const std::string& where);

// Ids are those of spm_encode; tokens of the types unknown and control are special. Throws Error (input).
std::unique_ptr<const Tokenizer> make_tokenizer(const SentencePieceModel& model, const std::string& where);

}  // namespace choir::text
