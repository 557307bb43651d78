#include "text/bpe_trainer.h"

#include <algorithm>
#include <cstdint>
#include <queue>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

constexpr int kBytes = 256;
constexpr int64_t kLeastCount = 2;  // a pair seen once is not worth a token

struct Word {
  std::vector<int32_t> tokens;
  int64_t count;
};

using Pair = std::pair<int32_t, int32_t>;

struct PairHash {
  size_t operator()(const Pair& pair) const {
    const auto key = static_cast<uint64_t>(pair.first) << 32 | static_cast<uint32_t>(pair.second);
    return static_cast<size_t>((key * 0x9e3779b97f4a7c15u) >> 16);
  }
};

struct Occurrences {
  int64_t count = 0;
  std::vector<uint32_t> words;  // where the pair stands or stood; a word may be listed twice
};

// The most frequent pair on top, among equals the one with the smaller ids.
struct Ranked {
  int64_t count;
  Pair pair;
  bool operator<(const Ranked& other) const { return count != other.count ? count < other.count : pair > other.pair; }
};

// Greedy merging. Counts are exact at all times; an entry of the heap may be stale and is then set right when it
// comes to the top, which is safe because a pair whose count grew was pushed again.
class Merger {
 public:
  explicit Merger(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      count_pairs(words_[w], +1);
      for (const Pair& pair : pairs_of(words_[w])) list(w, pair);
    }
    for (const auto& [pair, found] : pairs_) heap_.push({found.count, pair});
  }

  // The next pair to merge; its count is 0 when there is none.
  Ranked pop() {
    while (!heap_.empty()) {
      const Ranked top = heap_.top();
      heap_.pop();
      const int64_t count = pairs_[top.pair].count;
      if (count == top.count) return top;
      if (count > 0 && count < top.count) heap_.push({count, top.pair});
    }
    return {0, {0, 0}};
  }

  // Replaces the pair by `result` in all words, from left to right.
  void merge(Pair pair, int32_t result) {
    std::set<Pair> grown;
    for (const size_t w : std::exchange(pairs_[pair].words, {})) {
      if (!contains(words_[w], pair)) continue;
      count_pairs(words_[w], -1);
      replace(words_[w], pair, result);
      count_pairs(words_[w], +1);
      for (const Pair& fresh : pairs_of(words_[w])) {
        if (fresh.first != result && fresh.second != result) continue;
        list(w, fresh);
        grown.insert(fresh);
      }
    }
    for (const Pair& p : grown) heap_.push({pairs_[p].count, p});
  }

 private:
  static std::vector<Pair> pairs_of(const Word& word) {
    std::vector<Pair> pairs;
    for (size_t i = 0; i + 1 < word.tokens.size(); ++i) pairs.emplace_back(word.tokens[i], word.tokens[i + 1]);
    return pairs;
  }

  static bool contains(const Word& word, Pair pair) {
    for (size_t i = 0; i + 1 < word.tokens.size(); ++i)
      if (word.tokens[i] == pair.first && word.tokens[i + 1] == pair.second) return true;
    return false;
  }

  static void replace(Word& word, Pair pair, int32_t result) {
    auto& tokens = word.tokens;
    size_t to = 0;
    for (size_t from = 0; from < tokens.size(); ++to) {
      const bool here = from + 1 < tokens.size() && tokens[from] == pair.first && tokens[from + 1] == pair.second;
      tokens[to] = here ? result : tokens[from];
      from += here ? 2 : 1;
    }
    tokens.resize(to);
  }

  // Adds the pairs of a word to the counts (sign +1) or takes them out (-1).
  void count_pairs(const Word& word, int sign) {
    for (const Pair& pair : pairs_of(word)) pairs_[pair].count += sign * word.count;
  }

  void list(size_t w, Pair pair) {
    auto& words = pairs_[pair].words;
    if (words.empty() || words.back() != w) words.push_back(static_cast<uint32_t>(w));
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, Occurrences, PairHash> pairs_;
  std::priority_queue<Ranked> heap_;
};

void check(const BpeTraining& training) {
  const auto& names = training.special_tokens;
  const std::set<std::string> distinct(names.begin(), names.end());
  if (distinct.size() != names.size() || distinct.contains(""))
    base::usage_error("special tokens must differ and not be empty", "BPE training", "name each one once");
  for (const std::string& name : names) {
    if (valid_utf8_prefix(name) != name.size())
      base::usage_error("a special token is not valid UTF-8", "BPE training", "use printable names");
    if (utf8_character(name) == name.size())
      base::usage_error("the special token '" + name + "' is one character", "BPE training",
                        "use a name that no text contains, such as <|endoftext|>");
  }
  const auto least = static_cast<int64_t>(names.size()) + kBytes;
  if (training.vocab_size < least)
    base::usage_error("a vocabulary of " + std::to_string(training.vocab_size) + " tokens is too small", "BPE training",
                      "the bytes and the special tokens alone are " + std::to_string(least));
}

}  // namespace

struct BpeTrainer::Words {
  Pretokenizer pretokenizer{isolate_matches({kSingleDigitsPattern}, "BPE training")};
  std::unordered_map<std::string, int64_t> counts;
};

BpeTrainer::BpeTrainer(BpeTraining training) : training_(std::move(training)), words_(std::make_unique<Words>()) {
  check(training_);
}

BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view document) {
  std::string key;
  Pretokenizer::Arena arena;
  const auto count = [&](std::string_view word) {
    key.assign(word);
    ++words_->counts[key];
  };
  while (!document.empty()) {
    const size_t valid = valid_utf8_prefix(document);
    words_->pretokenizer.split(document.substr(0, valid), Place::kAfterToken, arena, count);
    document.remove_prefix(std::min(valid + 1, document.size()));
  }
}

std::unique_ptr<const Tokenizer> BpeTrainer::train() const {
  const auto specials = static_cast<int32_t>(training_.special_tokens.size());
  const std::set<std::string> special_names(training_.special_tokens.begin(), training_.special_tokens.end());
  ByteLevelBpe bpe{kSingleDigitsPattern, training_.special_tokens, {}, {}};
  std::unordered_map<std::string, int32_t> ids;
  const auto id_of = [&](std::string token) {
    const auto [at, fresh] = ids.emplace(token, specials + static_cast<int32_t>(bpe.tokens.size()));
    if (fresh) bpe.tokens.push_back(std::move(token));
    return at->second;
  };
  for (int byte = 0; byte < kBytes; ++byte) id_of(std::string(1, static_cast<char>(byte)));

  std::vector<Word> words;
  for (const auto& [text, count] : words_->counts) {
    words.push_back({{}, count});
    for (const char c : text) words.back().tokens.push_back(specials + static_cast<unsigned char>(c));
  }
  Merger merger(std::move(words));
  while (specials + static_cast<int32_t>(bpe.tokens.size()) < training_.vocab_size) {
    const auto [count, pair] = merger.pop();
    if (count < kLeastCount) break;
    const std::string token = bpe.tokens[pair.first - specials] + bpe.tokens[pair.second - specials];
    if (special_names.contains(byte_level_name(token))) continue;  // a name can stand for one token only
    // Two different merges may spell the same token; it keeps its first id.
    merger.merge(pair, id_of(token));
    bpe.merges.push_back(pair);
  }
  return parse_tokenizer(byte_level_bpe_json(bpe), "trained tokenizer");
}

}  // namespace choir::text
