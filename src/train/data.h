// Text files of several domains as one stream of training sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "model/forward.h"
#include "text/tokenizer.h"
#include "train/config.h"

namespace choir::train {

// Where a path of the configuration lies; absolute ones stay.
std::string place_of(const std::string& directory, const std::string& path);

// The lines of a .jsonl file that are not empty.
struct Line {
  std::string text, where;  // where: file and number, for errors
};
std::vector<Line> read_lines(const std::string& path);

// The documents of one file: the "text" of each line of a .jsonl, else the whole file. Throws Error (input) with
// file and line.
std::vector<std::string> read_documents(const std::string& path);

struct DomainTokens {
  std::string name;
  double weight;
  std::vector<int32_t> tokens;         // documents one after another, each followed by the end-of-text token
  std::vector<int32_t> held_out = {};  // likewise, never drawn
};

// Throws Error (input) when a domain has fewer than `least` tokens.
std::vector<DomainTokens> read_domain_tokens(const std::vector<Domain>& domains, const std::string& directory,
                                             const text::Tokenizer& tokenizer, int least);

// Fills held_out of each domain: its own file where the config names one, else the last 2 % of its tokens, which it
// loses; in both cases whole sequences of `length` tokens and one token more, at least one sequence, at most
// evaluation.tokens. Throws Error (input) when too little is left to train on.
void hold_out(std::vector<DomainTokens>& domains, const EvaluationPlan& evaluation, int length,
              const std::string& directory, const text::Tokenizer& tokenizer);

// Sequences one after another, all from position 0.
struct TokenBatch {
  std::vector<int32_t> ids, targets;       // [N] and the token that follows each; -1: not counted
  std::vector<model::Sequence> sequences;  // [S]
  std::vector<int32_t> domains;            // [S] number of each sequence's domain

  void add(int32_t domain, std::span<const int32_t> sequence, std::span<const int32_t> next);
  int64_t counted() const;  // targets
};

// Each sequence is cut at random from a domain drawn by weight: the generator's state is all there is to save.
TokenBatch draw_batch(const std::vector<DomainTokens>& domains, int sequences, int length, base::Rng& rng);

// A sequence, and what follows each of its tokens; -1: not counted.
struct Example {
  int32_t domain;
  std::vector<int32_t> ids, targets;
};

// All examples in batches of at most so many tokens, at least one example each. Every batch mixes the domains as evenly
// as it can.
std::vector<TokenBatch> mixed_batches(const std::vector<std::vector<Example>>& by_domain, int64_t tokens);
// Likewise all held-out sequences.
std::vector<TokenBatch> held_out_batches(const std::vector<DomainTokens>& domains, int sequences, int length);

// [N] the simulated node of each token of a batch.
void fill_nodes(const TokenBatch& batch, const Placement& placement, std::span<int32_t> nodes);
std::vector<int32_t> nodes_of(const TokenBatch& batch, const Placement& placement);

}  // namespace choir::train
