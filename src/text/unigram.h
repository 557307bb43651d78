// Unigram language model: of all ways to cut a word into tokens, the one with the greatest sum of scores.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/bpe.h"
#include "text/byte_trie.h"
#include "text/fallback.h"
#include "text/token_model.h"

namespace choir::text {

struct UnigramVocabulary {
  std::vector<Piece> pieces;      // of the same texts the last one counts
  std::vector<double> scores;     // of each piece, finite
  double unknown_score = 0;       // of a character that is no piece
  Fallback fallback;              // unknown is required
  bool single_precision = false;  // sums are rounded to float, as SentencePiece does; `tokenizers` keeps doubles
};

class Unigram final : public TokenModel {
 public:
  // Throws Error (input) that names `where` when the pieces are too long in all.
  Unigram(const UnigramVocabulary& vocabulary, const std::string& where);

  std::unique_ptr<Call> start(std::vector<int32_t>& ids) const override;

 private:
  class Search;
  struct Node {
    int32_t id = Fallback::kNone;  // of the piece that ends here
    double score = 0;
  };

  int32_t piece_at(std::string_view text) const;

  Fallback fallback_;
  double unknown_score_;
  bool single_precision_;
  ByteTrie trie_;
  std::vector<Node> nodes_;  // of the trie
};

}  // namespace choir::text
