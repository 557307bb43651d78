// What a model directory says about its tokens, in the lists of a GGUF file, and back: tokenizer.json or, where there
// is none, tokenizer.model with added_tokens.json; tokenizer_config.json; chat_template.jinja.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/gguf_vocabulary.h"

namespace choir::text {

bool directory_has_tokens(const std::string& directory);

// Of at least `size` tokens. The directory must have tokens. Throws Error (input) that names the file and what is wrong
// in it or has no place in the lists. `notes` gets what llama.cpp will do otherwise.
GgufVocabulary directory_vocabulary(const std::string& directory, size_t size, std::vector<std::string>& notes);

std::unique_ptr<const Tokenizer> load_directory_tokenizer(const std::string& directory);

// Writes tokenizer.json and tokenizer_config.json into an existing directory. `longest`: text of the model, in tokens.
void write_directory_tokens(const GgufVocabulary& vocabulary, int64_t longest, const std::string& directory,
                            const std::string& where);

}  // namespace choir::text
