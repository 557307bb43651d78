#include "text/unigram.h"

#include <algorithm>

#include "base/error.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

constexpr size_t kMostNodes = size_t{1} << 24;
constexpr size_t kNowhere = static_cast<size_t>(-1);

// The best way to cut a word up to some place ends with a token that begins at `begin`.
struct Best {
  double score = 0;
  size_t begin = kNowhere;
  int32_t id = Fallback::kNone;
};

}  // namespace

// The Viterbi search of SentencePiece's EncodeOptimized (src/unigram_model.cc): forward over the characters; of equal
// sums the one found first stays, which is the one whose last token is longer.
class Unigram::Search final : public TokenModel::Call {
 public:
  Search(const Unigram& model, std::vector<int32_t>& ids) : model_(model), ids_(ids) {}

  void add(std::string_view word) override {
    best_.assign(word.size() + 1, Best());
    for (size_t at = 0; at < word.size(); at = next_character(word, at)) extend(word, at);
    cuts_.clear();
    for (size_t end = word.size(); end > 0; end = best_[end].begin) cuts_.push_back(end);
    emit(word);
  }

  void add_byte(unsigned char byte) override {
    model_.fallback_.append(std::string_view(reinterpret_cast<const char*>(&byte), 1), ids_);
  }

 private:
  void extend(std::string_view word, size_t begin);
  void offer(size_t begin, size_t end, int32_t id, double score);
  void emit(std::string_view word);

  const Unigram& model_;
  std::vector<int32_t>& ids_;
  std::vector<Best> best_;    // by where the cut ends
  std::vector<size_t> cuts_;  // ends of the tokens, the last one first
};

void Unigram::Search::offer(size_t begin, size_t end, int32_t id, double score) {
  const double sum = score + best_[begin].score;
  Best& best = best_[end];
  if (best.begin != kNowhere && sum <= best.score) return;
  best = {model_.single_precision_ ? static_cast<double>(static_cast<float>(sum)) : sum, begin, id};
}

// All tokens that begin here; an unknown character where it is no token by itself.
void Unigram::Search::extend(std::string_view word, size_t begin) {
  const size_t character_end = next_character(word, begin);
  bool whole_character = false;
  int32_t node = 0;
  for (size_t at = begin; at < word.size(); ++at) {
    node = model_.trie_.next(node, word[at]);
    if (node == ByteTrie::kNowhere) break;
    const Node& found = model_.nodes_[node];
    if (found.id == Fallback::kNone) continue;
    offer(begin, at + 1, found.id, found.score);
    whole_character |= at + 1 == character_end;
  }
  if (!whole_character) offer(begin, character_end, model_.fallback_.unknown, model_.unknown_score_);
}

// Unknown characters in a row are one piece of text.
void Unigram::Search::emit(std::string_view word) {
  size_t begin = 0;
  for (size_t i = cuts_.size(); i > 0; --i) {
    const int32_t id = best_[cuts_[i - 1]].id;
    const bool unknown = id == model_.fallback_.unknown;
    if (unknown && i > 1 && best_[cuts_[i - 2]].id == id) continue;
    const std::string_view text = word.substr(begin, cuts_[i - 1] - begin);
    begin = cuts_[i - 1];
    const int32_t piece = unknown ? model_.piece_at(text) : id;
    if (piece != Fallback::kNone)
      ids_.push_back(piece);
    else
      model_.fallback_.append(text, ids_);
  }
}

Unigram::Unigram(const UnigramVocabulary& vocabulary, const std::string& where)
    : fallback_(vocabulary.fallback),
      unknown_score_(vocabulary.unknown_score),
      single_precision_(vocabulary.single_precision),
      nodes_(1) {
  for (size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const int32_t node = trie_.insert(vocabulary.pieces[i].text);
    nodes_.resize(trie_.size());
    nodes_[node] = {vocabulary.pieces[i].id, vocabulary.scores[i]};
    if (nodes_.size() > kMostNodes)
      base::input_error("the tokens are too long", where,
                        "at most " + std::to_string(kMostNodes) + " bytes in all are supported");
  }
  CHOIR_CHECK(nodes_[0].id == Fallback::kNone, "an empty piece");
}

// The id of a piece with just this text.
int32_t Unigram::piece_at(std::string_view text) const {
  const int32_t node = trie_.find(text);
  return node == ByteTrie::kNowhere ? Fallback::kNone : nodes_[node].id;
}

std::unique_ptr<TokenModel::Call> Unigram::start(std::vector<int32_t>& ids) const {
  return std::make_unique<Search>(*this, ids);
}

}  // namespace choir::text
