// Tokens that are recognised in text before the vocabulary sees it, such as <|endoftext|>.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/byte_trie.h"

namespace choir::text {

struct AddedToken {
  int32_t id;
  std::string content;       // what is looked for, not empty; of a normalized token its normalized form
  bool special;              // not recognised in ordinary text, hidden when decoded
  bool normalized;           // looked for after normalization, in what the others left
  bool single_word = false;  // not beside a letter or digit
  bool strip_left = false, strip_right = false;  // takes the blanks beside it
};

// Immutable; threads may share it.
class AddedTokens {
 public:
  struct Piece {
    std::string_view text;
    int32_t id;  // kOrdinary for text between added tokens
  };
  static constexpr int32_t kOrdinary = -1;

  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Looks for the tokens that are normalized, or for the others. Pieces in order, none empty, together the text. The
  // leftmost token wins, at one place the longest. Without `specials` a special token that wins is ordinary text.
  std::vector<Piece> cut(std::string_view text, bool specials, bool normalized) const;

  // nullptr when the id is that of an ordinary token.
  const AddedToken* find(int32_t id) const;
  bool is_special(int32_t id) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  struct Set {
    ByteTrie trie;
    std::vector<int32_t> token_of;  // by node: index into tokens_, or kOrdinary
    std::array<bool, 256> begins{};
  };

  const AddedToken* at_front(const Set& set, std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> index_of_;  // by id
  Set raw_, normalized_;
};

}  // namespace choir::text
