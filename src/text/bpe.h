// Byte pair encoding over bytes: words begin as single bytes, and the pair learnt first is merged first.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/pretokenizer.h"
#include "text/token_model.h"

namespace choir::text {

// A whole vocabulary. Every byte and every result of a merge is the content of some token.
struct BpeVocabulary {
  struct Token {
    std::string name;      // as in tokenizer.json
    std::string bytes;     // what it decodes to
    bool ordinary = true;  // text may become it; false for added tokens, which the front recognises
  };
  struct Merge {
    int32_t left, right, result;
  };

  std::vector<Token> tokens;       // by id
  std::vector<Merge> merges;       // the most urgent first, no pair twice
  std::array<int32_t, 256> bytes;  // id of each single byte
  bool ignore_merges = false;      // a word that is a token becomes it, whatever merges say
};

class Bpe final : public TokenModel {
 public:
  Bpe(BpeVocabulary vocabulary, Pretokenizer pretokenizer);

  void encode(std::string_view text, std::vector<int32_t>& ids) const override;
  std::string_view bytes(int32_t id) const override { return vocabulary_.tokens[id].bytes; }
  std::optional<int32_t> id_of(std::string_view name) const override;
  int vocab_size() const override { return static_cast<int>(vocabulary_.tokens.size()); }

 private:
  struct Rule {
    int32_t rank, result;
  };
  struct Call;
  const Rule* rule(int32_t left, int32_t right) const;
  void encode_word(std::string_view word, Call& call) const;
  void merge_word(std::string_view word, Call& call) const;
  void propose(int left, Call& call) const;

  BpeVocabulary vocabulary_;
  Pretokenizer pretokenizer_;
  std::unordered_map<uint64_t, Rule> rules_;                   // by the ids of a pair
  std::unordered_map<std::string_view, int32_t> ids_by_name_;  // names live in vocabulary_
  std::unordered_map<std::string_view, int32_t> whole_words_;  // filled when merges are ignored
};

}  // namespace choir::text
