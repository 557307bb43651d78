#include "text/bpe.h"

#include <algorithm>
#include <climits>

#include "base/error.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

// Text repeats its words, so one call remembers where it put the ids of a word; so many words bound the memory.
constexpr size_t kRememberedWords = 1 << 16;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A word as a list of tokens: merging hangs the right one out.
struct Symbol {
  int32_t id;
  int previous, next;  // indices, -1 at the ends
};

// A merge that was possible when it was proposed; it still is when both ids still stand there.
struct Candidate {
  int32_t rank;
  int left;  // index of the left symbol
  int32_t left_id, right_id, result;

  // The heap's top is the lowest rank, among equals the leftmost.
  bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

struct Span {
  size_t begin, size;
};

}  // namespace

// The working memory of one call of encode.
struct Bpe::Call {
  std::vector<int32_t>& ids;
  std::unordered_map<std::string_view, Span> known;  // words of this text and where their ids stand in `ids`
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

Bpe::Bpe(BpeVocabulary vocabulary, Pretokenizer pretokenizer)
    : vocabulary_(std::move(vocabulary)), pretokenizer_(std::move(pretokenizer)) {
  rules_.reserve(vocabulary_.merges.size());
  for (const auto& merge : vocabulary_.merges)
    rules_.emplace(pair_key(merge.left, merge.right), Rule{static_cast<int32_t>(rules_.size()), merge.result});
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const auto& token = vocabulary_.tokens[id];
    ids_by_name_.emplace(token.name, id);
    if (vocabulary_.ignore_merges && token.ordinary) whole_words_.emplace(token.bytes, id);
  }
}

std::optional<int32_t> Bpe::id_of(std::string_view name) const {
  const auto found = ids_by_name_.find(name);
  if (found == ids_by_name_.end()) return std::nullopt;
  return found->second;
}

const Bpe::Rule* Bpe::rule(int32_t left, int32_t right) const {
  const auto found = rules_.find(pair_key(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

// PCRE2 sees valid text only; each byte that is not becomes its own token.
void Bpe::encode(std::string_view text, std::vector<int32_t>& ids) const {
  Call call{ids, {}, {}, {}};
  while (!text.empty()) {
    const size_t valid = valid_utf8_prefix(text);
    pretokenizer_.split(text.substr(0, valid), [&](std::string_view word) { encode_word(word, call); });
    text.remove_prefix(valid);
    if (text.empty()) break;
    ids.push_back(vocabulary_.bytes[static_cast<unsigned char>(text.front())]);
    text.remove_prefix(1);
  }
}

void Bpe::encode_word(std::string_view word, Call& call) const {
  if (const auto whole = whole_words_.find(word); whole != whole_words_.end()) {
    call.ids.push_back(whole->second);
    return;
  }
  if (const auto known = call.known.find(word); known != call.known.end()) {
    const Span span = known->second;
    for (size_t i = 0; i < span.size; ++i) call.ids.push_back(call.ids[span.begin + i]);
    return;
  }
  const size_t begin = call.ids.size();
  merge_word(word, call);
  if (call.known.size() < kRememberedWords) call.known.emplace(word, Span{begin, call.ids.size() - begin});
}

void Bpe::propose(int left, Call& call) const {
  if (left < 0 || call.symbols[left].next < 0) return;
  const int32_t left_id = call.symbols[left].id, right_id = call.symbols[call.symbols[left].next].id;
  const Rule* found = rule(left_id, right_id);
  if (!found) return;
  call.heap.push_back({found->rank, left, left_id, right_id, found->result});
  std::push_heap(call.heap.begin(), call.heap.end());
}

void Bpe::merge_word(std::string_view word, Call& call) const {
  CHOIR_CHECK(word.size() < INT_MAX, "a word of " + std::to_string(word.size()) + " bytes");
  const int size = static_cast<int>(word.size());
  auto& symbols = call.symbols;
  symbols.clear();
  for (int i = 0; i < size; ++i)
    symbols.push_back({vocabulary_.bytes[static_cast<unsigned char>(word[i])], i - 1, i + 1 < size ? i + 1 : -1});
  for (int i = 0; i + 1 < size; ++i) propose(i, call);

  while (!call.heap.empty()) {
    std::pop_heap(call.heap.begin(), call.heap.end());
    const Candidate best = call.heap.back();
    call.heap.pop_back();
    Symbol& left = symbols[best.left];
    if (left.id != best.left_id || left.next < 0 || symbols[left.next].id != best.right_id) continue;
    Symbol& right = symbols[left.next];
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.left;
    propose(left.previous, call);
    propose(best.left, call);
  }
  for (int i = 0; i >= 0; i = symbols[i].next) call.ids.push_back(symbols[i].id);
}

}  // namespace choir::text
