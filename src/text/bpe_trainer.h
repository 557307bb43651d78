// Learns a byte-level BPE vocabulary from documents.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace choir::text {

struct BpeTraining {
  int vocab_size = 4096;                                        // tokens, the special ones and 256 bytes included
  std::vector<std::string> special_tokens = {"<|endoftext|>"};  // they get the ids 0, 1, ...
};

// Feed documents, then train. The vocabulary is: special tokens, the 256 bytes, then merges in the order learnt.
// Deterministic: among pairs of equal count the one with the smaller ids is merged first. Not thread-safe.
class BpeTrainer {
 public:
  // Throws Error (usage) when the vocabulary has no room for the special tokens and the bytes, or names repeat.
  explicit BpeTrainer(BpeTraining training);
  ~BpeTrainer();

  // Counts the words of one document. Bytes that are not valid UTF-8 are passed over.
  void add(std::string_view document);

  // Smaller than vocab_size when no pair of tokens occurs twice any more. May be called again after more documents.
  std::unique_ptr<const Tokenizer> train() const;

 private:
  struct Words;
  BpeTraining training_;
  std::unique_ptr<Words> words_;
};

}  // namespace choir::text
