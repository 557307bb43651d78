// Tokens that are recognised in text before the vocabulary sees it, such as <|endoftext|>.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace choir::text {

struct AddedToken {
  int32_t id;
  std::string content;  // not empty
  bool special;         // not recognised in ordinary text, hidden when decoded
  bool normalized;      // looked for after those that are not, where these left text
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

  // Pieces in order, none empty, together the text. The leftmost token wins, at one place the longest.
  // Without `specials` only the tokens that are not special are recognised.
  std::vector<Piece> cut(std::string_view text, bool specials) const;

  bool is_special(int32_t id) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  const AddedToken* at_front(std::string_view text, bool specials, bool normalized) const;
  void cut_pass(Piece piece, bool specials, bool normalized, std::vector<Piece>& pieces) const;

  std::vector<AddedToken> tokens_;
  std::vector<int32_t> special_ids_;                    // ascending
  std::array<std::vector<size_t>, 256> by_first_byte_;  // indices into tokens_, longest content first
};

}  // namespace choir::text
