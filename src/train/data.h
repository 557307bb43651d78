// Text files of several domains as one stream of training sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "text/tokenizer.h"
#include "train/config.h"

namespace choir::train {

// The documents of one file: the "text" of each line of a .jsonl, else the whole file. Throws Error (input) with
// file and line.
std::vector<std::string> read_documents(const std::string& path);

struct DomainTokens {
  std::string name;
  double weight;
  std::vector<int32_t> tokens;  // documents one after another, each followed by the end-of-text token
};

// Throws Error (input) when a domain has fewer than `least` tokens.
std::vector<DomainTokens> read_domain_tokens(const std::vector<Domain>& domains, const std::string& directory,
                                             const text::Tokenizer& tokenizer, int least);

// A tokenizer learnt from the domains' documents.
std::unique_ptr<const text::Tokenizer> learn_tokenizer(const std::vector<Domain>& domains, const std::string& directory,
                                                       int vocab_size);

// sequences x length tokens and the token that follows each.
struct TokenBatch {
  std::vector<int32_t> ids, targets;
};

// Each sequence is cut at random from a domain drawn by weight: the generator's state is all there is to save.
TokenBatch draw_batch(const std::vector<DomainTokens>& domains, int sequences, int length, base::Rng& rng);

}  // namespace choir::train
