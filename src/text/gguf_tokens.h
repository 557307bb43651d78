// The keys tokenizer.* of a GGUF file: read into a vocabulary, and written from one.
#pragma once

#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "text/gguf_vocabulary.h"

namespace choir::text {

// Throws Error (input) that names the key. A file without tokens has none: tokens is then empty.
GgufVocabulary read_gguf_vocabulary(const io::GgufMetadata& metadata);

void put_gguf_vocabulary(const GgufVocabulary& vocabulary, io::GgufHeader& header);

// What a tokenizer.json says, in the lists of GGUF. Ids from its end up to `size` are unused tokens: a model may have
// more rows than its tokenizer has tokens. Throws Error (input) that names the part that GGUF has no place for. `notes`
// gets what llama.cpp will do otherwise.
GgufVocabulary gguf_vocabulary_of(const std::string& tokenizer_json, size_t size, const std::string& where,
                                  std::vector<std::string>& notes);

}  // namespace choir::text
