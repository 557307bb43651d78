#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

namespace choir::text {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i)
    by_first_byte_[static_cast<unsigned char>(tokens_[i].content.front())].push_back(i);
  for (const AddedToken& token : tokens_)
    if (token.special) special_ids_.push_back(token.id);
  std::sort(special_ids_.begin(), special_ids_.end());
  for (auto& indices : by_first_byte_)
    std::stable_sort(indices.begin(), indices.end(),
                     [this](size_t a, size_t b) { return tokens_[a].content.size() > tokens_[b].content.size(); });
}

const AddedToken* AddedTokens::at_front(std::string_view text, bool specials, bool normalized) const {
  for (const size_t i : by_first_byte_[static_cast<unsigned char>(text.front())]) {
    const AddedToken& token = tokens_[i];
    const bool wanted = token.normalized == normalized && (specials || !token.special);
    if (wanted && text.starts_with(token.content)) return &token;
  }
  return nullptr;
}

void AddedTokens::cut_pass(Piece piece, bool specials, bool normalized, std::vector<Piece>& pieces) const {
  const std::string_view text = piece.text;
  size_t done = 0, at = 0;
  while (at < text.size()) {
    const AddedToken* token = at_front(text.substr(at), specials, normalized);
    if (!token) {
      ++at;
      continue;
    }
    if (done < at) pieces.push_back({text.substr(done, at - done), kOrdinary});
    pieces.push_back({text.substr(at, token->content.size()), token->id});
    done = at += token->content.size();
  }
  if (done < text.size()) pieces.push_back({text.substr(done), kOrdinary});
}

std::vector<AddedTokens::Piece> AddedTokens::cut(std::string_view text, bool specials) const {
  std::vector<Piece> pieces = {{text, kOrdinary}};
  for (const bool normalized : {false, true}) {
    std::vector<Piece> finer;
    for (const Piece& piece : pieces) {
      if (piece.id == kOrdinary)
        cut_pass(piece, specials, normalized, finer);
      else
        finer.push_back(piece);
    }
    pieces = std::move(finer);
  }
  return pieces;
}

bool AddedTokens::is_special(int32_t id) const {
  return std::binary_search(special_ids_.begin(), special_ids_.end(), id);
}

}  // namespace choir::text
