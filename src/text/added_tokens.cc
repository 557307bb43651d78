#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "text/normalizer.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

// The characters at the two ends of a text; bytes that are no character are one each.
std::string_view last_character(std::string_view text) {
  for (size_t size = 1; size <= std::min<size_t>(4, text.size()); ++size) {
    const std::string_view end = text.substr(text.size() - size);
    if (utf8_character(end) == size) return end;
  }
  return text.substr(text.size() - 1);
}

std::string_view first_character(std::string_view text) { return text.substr(0, next_character(text, 0)); }

bool is_blank(std::string_view character) {
  return utf8_character(character) != 0 && is_white_space(code_point(character));
}

bool is_letter(std::string_view character) {
  return utf8_character(character) != 0 && is_word_character(code_point(character));
}

bool stands_alone(std::string_view before, std::string_view after) {
  return (before.empty() || !is_letter(last_character(before))) &&
         (after.empty() || !is_letter(first_character(after)));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    Set& set = token.normalized ? normalized_ : raw_;
    const int32_t node = set.trie.insert(token.content);
    set.token_of.resize(set.trie.size(), kOrdinary);
    set.token_of[node] = static_cast<int32_t>(i);
    set.begins[static_cast<unsigned char>(token.content.front())] = true;
    index_of_.emplace(token.id, i);
  }
}

const AddedToken* AddedTokens::at_front(const Set& set, std::string_view text) const {
  const AddedToken* longest = nullptr;
  int32_t node = ByteTrie::kRoot;
  for (const char c : text) {
    node = set.trie.next(node, c);
    if (node == ByteTrie::kNowhere) break;
    if (set.token_of[node] != kOrdinary) longest = &tokens_[set.token_of[node]];
  }
  return longest;
}

std::vector<AddedTokens::Piece> AddedTokens::cut(std::string_view text, bool specials, bool normalized) const {
  const Set& set = normalized ? normalized_ : raw_;
  std::vector<Piece> pieces;
  size_t done = 0, at = 0;
  while (!set.token_of.empty() && at < text.size()) {
    const bool may_begin = set.begins[static_cast<unsigned char>(text[at])];
    const AddedToken* token = may_begin ? at_front(set, text.substr(at)) : nullptr;
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->special && !specials) continue;
    if (token->single_word && !stands_alone(text.substr(0, begin), text.substr(end))) continue;
    while (token->strip_left && begin > done && is_blank(last_character(text.substr(0, begin))))
      begin -= last_character(text.substr(0, begin)).size();
    while (token->strip_right && end < text.size() && is_blank(first_character(text.substr(end))))
      end += first_character(text.substr(end)).size();
    if (done < begin) pieces.push_back({text.substr(done, begin - done), kOrdinary});
    pieces.push_back({text.substr(begin, end - begin), token->id});
    done = end;
    at = std::max(at, done);
  }
  if (done < text.size()) pieces.push_back({text.substr(done), kOrdinary});
  return pieces;
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found = index_of_.find(id);
  return found == index_of_.end() ? nullptr : &tokens_[found->second];
}

bool AddedTokens::is_special(int32_t id) const {
  const AddedToken* token = find(id);
  return token && token->special;
}

}  // namespace choir::text
