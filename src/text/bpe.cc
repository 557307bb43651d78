#include "text/bpe.h"

#include <algorithm>
#include <climits>
#include <map>
#include <unordered_set>

#include "base/error.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

// Text repeats its words, so one call remembers where it put the ids of a word; so many words bound the memory.
constexpr size_t kRememberedWords = 1 << 16;

constexpr size_t kLongestMergedPiece = 256;  // bytes; bounds the pairs that a file can make us look up

constexpr std::string_view kMark = "▁";  // stands for a blank in SentencePiece vocabularies

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

class Bpe::Merging final : public TokenModel::Call {
 public:
  Merging(const Bpe& bpe, std::vector<int32_t>& ids) : bpe_(bpe), ids_(ids) {}

  void add(std::string_view word) override {
    if (bpe_.cut_at_marks_)
      add_cut(word);
    else
      add_word(word);
  }

  void add_byte(unsigned char byte) override {
    const int32_t id = bpe_.byte_level_ ? bpe_.bytes_[byte] : Fallback::kNone;
    if (id != Fallback::kNone)
      ids_.push_back(id);
    else
      bpe_.fallback_.append(std::string_view(reinterpret_cast<const char*>(&byte), 1), ids_);
  }

 private:
  void add_cut(std::string_view word);
  void add_word(std::string_view word);
  void place_word(std::string_view word);
  void place_bytes(std::string_view word);
  void place_characters(std::string_view word);
  void place(int32_t id);
  void propose(int left);
  void merge();
  void emit();

  const Bpe& bpe_;
  std::vector<int32_t>& ids_;
  std::unordered_map<std::string_view, Span> known_;  // words of this text and where their ids stand in ids_
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::vector<int32_t> fallen_;
};

// Words that begin at each mark after another character.
void Bpe::Merging::add_cut(std::string_view word) {
  size_t begin = 0;
  for (size_t at = word.find(kMark, 1); at != std::string_view::npos; at = word.find(kMark, at + 1)) {
    if (word.substr(at - std::min(at, kMark.size()), kMark.size()) == kMark) continue;
    add_word(word.substr(begin, at - begin));
    begin = at;
  }
  add_word(word.substr(begin));
}

void Bpe::Merging::add_word(std::string_view word) {
  if (const auto known = known_.find(word); known != known_.end()) {
    const Span span = known->second;
    for (size_t i = 0; i < span.size; ++i) ids_.push_back(ids_[span.begin + i]);
    return;
  }
  const size_t begin = ids_.size();
  if (const int32_t* whole = bpe_.whole_word(word)) {
    ids_.push_back(*whole);
  } else {
    place_word(word);
    merge();
    emit();
  }
  if (known_.size() < kRememberedWords) known_.emplace(word, Span{begin, ids_.size() - begin});
}

void Bpe::Merging::place_word(std::string_view word) {
  CHOIR_CHECK(word.size() < INT_MAX, "a word of " + std::to_string(word.size()) + " bytes");
  symbols_.clear();
  if (bpe_.byte_level_)
    place_bytes(word);
  else
    place_characters(word);
}

void Bpe::Merging::place(int32_t id) {
  const int index = static_cast<int>(symbols_.size());
  if (index > 0) symbols_.back().next = index;
  symbols_.push_back({id, index - 1, -1});
}

void Bpe::Merging::place_bytes(std::string_view word) {
  for (const char c : word) {
    const int32_t id = bpe_.bytes_[static_cast<unsigned char>(c)];
    if (id != Fallback::kNone)
      place(id);
    else if (bpe_.fallback_.unknown != Fallback::kNone)
      place(bpe_.fallback_.unknown);
  }
}

void Bpe::Merging::place_characters(std::string_view word) {
  bool unknown_before = false;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, next_character(word, 0));
    word.remove_prefix(character.size());
    const int32_t* letter = bpe_.letters_.find(0, static_cast<int32_t>(code_point(character)));
    if (letter) {
      place(*letter);
      unknown_before = false;
      continue;
    }
    fallen_.clear();
    bpe_.fallback_.append(character, fallen_);
    const bool unknown = fallen_.size() == 1 && fallen_[0] == bpe_.fallback_.unknown;
    if (unknown && unknown_before && bpe_.fallback_.fuse) continue;
    for (const int32_t id : fallen_) place(id);
    unknown_before = unknown;
  }
}

void Bpe::Merging::propose(int left) {
  if (left < 0 || symbols_[left].next < 0) return;
  const int32_t left_id = symbols_[left].id, right_id = symbols_[symbols_[left].next].id;
  const Rule* found = bpe_.rules_.find(left_id, right_id);
  if (!found) return;
  heap_.push_back({found->rank, left, left_id, right_id, found->result});
  std::push_heap(heap_.begin(), heap_.end());
}

void Bpe::Merging::merge() {
  const int size = static_cast<int>(symbols_.size());
  for (int i = 0; i + 1 < size; ++i) propose(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[best.left];
    if (left.id != best.left_id || left.next < 0 || symbols_[left.next].id != best.right_id) continue;
    Symbol& right = symbols_[left.next];
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols_[left.next].previous = best.left;
    propose(left.previous);
    propose(best.left);
  }
}

// Strangers fall back here, since merges knew them.
void Bpe::Merging::emit() {
  if (symbols_.empty()) return;
  if (bpe_.strangers_.empty()) {
    for (int i = 0; i >= 0; i = symbols_[i].next) ids_.push_back(symbols_[i].id);
    return;
  }
  bool unknown_before = false;
  for (int i = 0; i >= 0; i = symbols_[i].next) {
    const auto stranger = bpe_.strangers_.find(symbols_[i].id);
    fallen_.clear();
    if (stranger != bpe_.strangers_.end())
      bpe_.fallback_.append(stranger->second, fallen_);
    else
      fallen_.push_back(symbols_[i].id);
    const bool unknown = fallen_.size() == 1 && fallen_[0] == bpe_.fallback_.unknown;
    if (!(unknown && unknown_before && bpe_.fallback_.fuse)) ids_.insert(ids_.end(), fallen_.begin(), fallen_.end());
    unknown_before = unknown;
  }
}

Bpe::Bpe(const BpeVocabulary& vocabulary, const std::vector<Piece>& strangers)
    : fallback_(vocabulary.fallback), byte_level_(vocabulary.byte_level), rules_(vocabulary.merges.size()) {
  bytes_.fill(Fallback::kNone);
  for (const Piece& piece : vocabulary.pieces) {
    if (vocabulary.ignore_merges) whole_words_.emplace(piece.text, piece.id);
    if (byte_level_ && piece.text.size() == 1) bytes_[static_cast<unsigned char>(piece.text[0])] = piece.id;
    if (!byte_level_ && utf8_character(piece.text) == piece.text.size())
      letters_.insert(0, static_cast<int32_t>(code_point(piece.text)), piece.id);
  }
  for (const Piece& stranger : strangers) {
    letters_.insert(0, static_cast<int32_t>(code_point(stranger.text)), stranger.id);
    strangers_.emplace(stranger.id, stranger.text);
  }
  for (const auto& merge : vocabulary.merges) rules_.insert(merge.left, merge.right, {merge.rank, merge.result});
  if (!byte_level_ && !vocabulary.ignore_merges) find_cuts(vocabulary);
}

// A merge that crosses a place in a word makes a token that contains both characters there. Where no such token
// has a mark after another character, words fall apart before such marks, and words repeat where whole texts do not.
void Bpe::find_cuts(const BpeVocabulary& vocabulary) {
  if (!letters_.find(0, static_cast<int32_t>(code_point(kMark)))) return;
  std::unordered_set<int32_t> results;
  for (const auto& merge : vocabulary.merges) results.insert(merge.result);
  const auto crosses = [&](const Piece& piece) {
    if (!results.contains(piece.id)) return false;
    for (size_t at = piece.text.find(kMark, 1); at != std::string::npos; at = piece.text.find(kMark, at + 1))
      if (at < kMark.size() || piece.text.compare(at - kMark.size(), kMark.size(), kMark) != 0) return true;
    return false;
  };
  cut_at_marks_ = std::none_of(vocabulary.pieces.begin(), vocabulary.pieces.end(), crosses);
}

const int32_t* Bpe::whole_word(std::string_view word) const {
  if (whole_words_.empty()) return nullptr;
  const auto found = whole_words_.find(std::string(word));
  return found == whole_words_.end() ? nullptr : &found->second;
}

std::vector<BpeVocabulary::Merge> merges_by_score(const std::vector<Piece>& pieces, const std::vector<float>& scores,
                                                  int32_t free_id, std::vector<Piece>& strangers,
                                                  const std::string& where) {
  std::unordered_map<std::string_view, int32_t> ids;
  std::map<float, int32_t, std::greater<>> ranks;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].text.size() > kLongestMergedPiece)
      base::input_error("a token of " + std::to_string(pieces[i].text.size()) + " bytes", where,
                        "tokens that merging makes have at most " + std::to_string(kLongestMergedPiece));
    ids.emplace(pieces[i].text, pieces[i].id);
    ranks.emplace(scores[i], 0);
  }
  int32_t rank = 0;
  for (auto& [score, its_rank] : ranks) its_rank = rank++;

  const auto part = [&](std::string_view text) {
    if (const auto known = ids.find(text); known != ids.end()) return known->second;
    if (utf8_character(text) != text.size()) return Fallback::kNone;
    strangers.push_back({std::string(text), free_id});
    ids.emplace(text, free_id);  // a view of some piece
    return free_id++;
  };
  std::vector<BpeVocabulary::Merge> merges;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string_view text = pieces[i].text;
    for (size_t at = next_character(text, 0); at < text.size(); at = next_character(text, at)) {
      const int32_t left = part(text.substr(0, at)), right = part(text.substr(at));
      if (left != Fallback::kNone && right != Fallback::kNone)
        merges.push_back({left, right, pieces[i].id, ranks[scores[i]]});
    }
  }
  return merges;
}

std::unique_ptr<TokenModel::Call> Bpe::start(std::vector<int32_t>& ids) const {
  return std::make_unique<Merging>(*this, ids);
}

}  // namespace choir::text
