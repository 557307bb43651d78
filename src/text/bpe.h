// Byte pair encoding: a word begins as its bytes or its characters, and the most urgent pair is merged first.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/fallback.h"
#include "text/pair_table.h"
#include "text/token_model.h"

namespace choir::text {

// A token that text may become. Byte-level: its bytes; else valid UTF-8.
struct Piece {
  std::string text;
  int32_t id;
};

struct BpeVocabulary {
  // Among merges of equal rank the leftmost in a word comes first.
  struct Merge {
    int32_t left, right, result, rank;
  };

  std::vector<Piece> pieces;  // no text twice
  std::vector<Merge> merges;  // no pair twice; the text of the result is that of the pair
  Fallback fallback;
  bool byte_level = false;
  bool ignore_merges = false;  // a word that is a token becomes it, whatever merges say
};

// The merges that SentencePiece would make: any pair whose text together is a piece, the higher score first, pieces of
// equal score being equally urgent. Characters that are no pieces take part under ids from `free_id` on, and are
// appended to `letters`. scores: of each piece. Throws Error (input) when pieces are too long to be built by merging.
std::vector<BpeVocabulary::Merge> merges_by_score(const std::vector<Piece>& pieces, const std::vector<float>& scores,
                                                  int32_t free_id, std::vector<Piece>& strangers,
                                                  const std::string& where);

class Bpe final : public TokenModel {
 public:
  // `strangers` are characters that merges know and the vocabulary does not: what is left of them falls back.
  explicit Bpe(const BpeVocabulary& vocabulary, const std::vector<Piece>& strangers = {});

  std::unique_ptr<Call> start(std::vector<int32_t>& ids) const override;

 private:
  class Merging;
  struct Rule {
    int32_t rank, result;
  };

  const int32_t* whole_word(std::string_view word) const;
  void find_cuts(const BpeVocabulary& vocabulary);

  Fallback fallback_;
  bool byte_level_;
  bool cut_at_marks_ = false;  // no merge crosses from another character to ▁, so words may end there
  std::array<int32_t, 256> bytes_;
  PairTable<int32_t> letters_;                            // by (0, code point)
  PairTable<Rule> rules_;                                 // by the ids of a pair
  std::unordered_map<std::string, int32_t> whole_words_;  // filled when merges are ignored
  std::unordered_map<int32_t, std::string> strangers_;    // text by id
};

}  // namespace choir::text
