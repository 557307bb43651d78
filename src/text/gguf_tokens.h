// The keys tokenizer.* of a GGUF file: read into a vocabulary, and written from one.
#pragma once

#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "text/gguf_vocabulary.h"

namespace choir::text {

struct SentencePieceModel;

// Throws Error (input) that names the key. A file without tokens has none: tokens is then empty.
GgufVocabulary read_gguf_vocabulary(const io::GgufMetadata& metadata);

void put_gguf_vocabulary(const GgufVocabulary& vocabulary, io::GgufHeader& header);

// What a tokenizer.json says, in the lists of GGUF, and the file itself. Ids from its end up to `size` are unused
// tokens: a model may have more rows than its tokenizer has tokens. Throws Error (input) that names the part that the
// lists have no place for. `notes` gets what llama.cpp, which reads the lists, will do otherwise.
GgufVocabulary gguf_vocabulary_of(const std::string& tokenizer_json, size_t size, const std::string& where,
                                  std::vector<std::string>& notes);
// What a SentencePiece model says. Throws Error (input).
GgufVocabulary gguf_vocabulary_of(const SentencePieceModel& model, const std::string& where);

// Gives every id below `size` a token, unused where it had none.
void fill_up(GgufVocabulary& vocabulary, size_t size);

inline constexpr float kLeastScore = -1e9f;  // of tokens that no text becomes

}  // namespace choir::text
