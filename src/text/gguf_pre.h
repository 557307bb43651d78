// How byte-level vocabularies cut text into words, under llama.cpp's names for it (tokenizer.ggml.pre).
#pragma once

#include <string>
#include <vector>

namespace choir::text {

// What a name stands for: what the published tokenizer.json files do before their vocabulary.
struct Pre {
  std::vector<std::string> patterns;  // each cuts what the one before it left whole
  bool ignore_merges = false;         // a word that is a token becomes it
  bool nfc = false;                   // text is composed first (llama.cpp does without)
};

// An empty name is GPT-2's. Throws Error (input) that lists the known names.
const Pre& pre_of(const std::string& name, const std::string& where);

// A name that stands for these patterns; empty when there is none.
std::string pre_named(const std::vector<std::string>& patterns, bool ignore_merges);

}  // namespace choir::text
