// The vocabulary inside a GGUF file: a Tokenizer made from its plain lists. Reading the file is another room's work.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace choir::text {

// The keys tokenizer.ggml.* of a GGUF file, as they stand there; -1 and empty stand for an absent key.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
struct GgufVocabulary {
  std::string model;                // "llama": SentencePiece BPE; "gpt2": byte-level BPE; "t5": Unigram
  std::string pre;                  // of "gpt2": which pattern cuts text into words
  std::vector<std::string> tokens;  // by id
  std::vector<float> scores;        // by id; "llama" and "t5"
  std::vector<int32_t> types;       // by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;  // "left right", the most urgent first; "gpt2"
  std::string charsmap;             // precompiled_charsmap; "t5"
  int32_t bos = -1, eos = -1, unknown = -1, padding = -1;
  std::optional<bool> add_bos, add_eos;     // what Tokenizer::framed puts around a text
  std::optional<bool> add_space_prefix;     // "llama" and "t5": a blank in front of the text; absent: yes
  std::optional<bool> remove_extra_spaces;  // "t5": absent: yes
  std::string chat_template;
  std::string json;  // tokenizer.huggingface.json, a whole tokenizer.json: where it is there, it counts, not the lists
};

// Throws Error (input) that names `where`, the key and the fault. Tokens of the types 2 and 3 are special, those of
// type 4 are recognised in any text.
std::unique_ptr<const Tokenizer> make_tokenizer(const GgufVocabulary& vocabulary, const std::string& where);

// A tokenizer.json of the same tokens for `tokenizers`, and here: `json`, or one made from the lists. The merges of
// "llama" stand in one order there, where those of equal score are equally urgent here. Throws as make_tokenizer does.
std::string tokenizer_json_of(const GgufVocabulary& vocabulary, const std::string& where);

}  // namespace choir::text
