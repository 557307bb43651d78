#include "text/sentencepiece_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "base/error.h"
#include "text/bpe.h"
#include "text/tokenizer_parts.h"
#include "text/unigram.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using Model = SentencePieceModel;

// The wire format of protobuf (https://protobuf.dev/programming-guides/encoding), read field by field.
class Message {
 public:
  enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  Message(std::string_view bytes, size_t offset, const std::string& where)
      : bytes_(bytes), offset_(offset), where_(where) {}

  // The next field, until there is none. Its value is in one of the two below.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field_ = key >> 3;
    wire_ = static_cast<int>(key & 7);
    number_ = 0;
    value_ = {};
    switch (wire_) {
      case kVarint: number_ = varint(); break;
      case kFixed64: value_ = take(8); break;
      case kBytes: value_ = take(varint()); break;
      case kFixed32: value_ = take(4); break;
      default: broken("a wire type that does not exist");
    }
    return true;
  }

  bool is(uint64_t field, Wire wire) const { return field_ == field && wire_ == wire; }
  uint64_t number() const { return number_; }
  std::string_view value() const { return value_; }
  Message inner() const { return {value_, offset_ + at_ - value_.size(), where_}; }

  float real() const {
    float number = 0;
    std::memcpy(&number, value_.data(), sizeof(number));
    return number;
  }

  [[noreturn]] void broken(const std::string& what) const {
    base::input_error(what, where_ + ": byte " + std::to_string(offset_ + at_),
                      "the file is damaged, or not a SentencePiece model");
  }

 private:
  uint64_t varint() {
    uint64_t result = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) broken("a number that does not end");
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      result |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    broken("a number of more than 64 bits");
  }

  std::string_view take(uint64_t size) {
    if (size > bytes_.size() - at_) broken("a field that is longer than the file");
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }

  std::string_view bytes_;
  size_t offset_, at_ = 0;
  const std::string& where_;
  uint64_t field_ = 0, number_ = 0;
  int wire_ = 0;
  std::string_view value_;
};

Model::Token read_token(Message message) {
  Model::Token token;
  while (message.next()) {
    if (message.is(1, Message::kBytes)) token.text = message.value();
    if (message.is(2, Message::kFixed32)) token.score = message.real();
    if (message.is(3, Message::kVarint)) token.type = static_cast<int>(std::min<uint64_t>(message.number(), 99));
  }
  return token;
}

void read_trainer(Message message, Model& model) {
  while (message.next()) {
    if (message.is(3, Message::kVarint)) model.kind = static_cast<int>(std::min<uint64_t>(message.number(), 99));
    if (message.is(24, Message::kVarint)) model.spaces_as_suffix = message.number() != 0;
    if (message.is(35, Message::kVarint)) model.byte_fallback = message.number() != 0;
    if (message.is(40, Message::kVarint)) model.unknown = static_cast<int32_t>(message.number());
    if (message.is(41, Message::kVarint)) model.bos = static_cast<int32_t>(message.number());
    if (message.is(42, Message::kVarint)) model.eos = static_cast<int32_t>(message.number());
    if (message.is(43, Message::kVarint)) model.padding = static_cast<int32_t>(message.number());
  }
}

void read_rules(Message message, Model& model) {
  while (message.next()) {
    if (message.is(2, Message::kBytes)) model.charsmap = message.value();
    if (message.is(3, Message::kVarint)) model.add_dummy_prefix = message.number() != 0;
    if (message.is(4, Message::kVarint)) model.remove_extra_spaces = message.number() != 0;
    if (message.is(5, Message::kVarint)) model.escape_spaces = message.number() != 0;
  }
}

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  base::input_error(what, where, "the file is damaged, or needs what is not supported");
}

std::string byte_name(int byte) {
  char name[8];
  std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
  return name;
}

Fallback read_fallback(const Model& model, const std::string& where) {
  Fallback fallback;
  fallback.fuse = true;
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    const Model::Token& token = model.tokens[id];
    if (token.type == Model::kUnknown) {
      if (fallback.unknown != Fallback::kNone) refuse("two unknown tokens", where);
      fallback.unknown = static_cast<int32_t>(id);
    }
    if (token.type != Model::kByte) continue;
    int byte = 0;
    while (byte < 256 && byte_name(byte) != token.text) ++byte;
    if (byte == 256) refuse("'" + token.text + "' is not the name of a byte", where);
    fallback.bytes[byte] = static_cast<int32_t>(id);
  }
  const bool complete =
      std::find(fallback.bytes.begin(), fallback.bytes.end(), Fallback::kNone) == fallback.bytes.end();
  if (model.byte_fallback && !complete) refuse("not all 256 bytes have a token", where);
  if (!model.byte_fallback) fallback.bytes.fill(Fallback::kNone);
  if (fallback.unknown == Fallback::kNone && !model.byte_fallback) refuse("no unknown token", where);
  return fallback;
}

// Tokens that text may become, with their scores.
struct Pieces {
  std::vector<Piece> pieces;
  std::vector<float> scores;
};

Pieces pieces_of(const Model& model, bool user_defined) {
  Pieces result;
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    const Model::Token& token = model.tokens[id];
    const bool wanted = token.type == Model::kNormal || (user_defined && token.type == Model::kUserDefined);
    if (!wanted) continue;
    result.pieces.push_back({token.text, static_cast<int32_t>(id)});
    result.scores.push_back(token.score);
  }
  return result;
}

// Of the scores of normal tokens.
struct Extremes {
  float least = std::numeric_limits<float>::max(), most = std::numeric_limits<float>::min();
};

Extremes extremes_of(const Model& model) {
  Extremes extremes;
  for (const Model::Token& token : model.tokens) {
    if (token.type != Model::kNormal) continue;
    extremes.least = std::min(extremes.least, token.score);
    extremes.most = std::max(extremes.most, token.score);
  }
  return extremes;
}

std::unique_ptr<const TokenModel> make_bpe(const Model& model, const std::string& where) {
  const Pieces all = pieces_of(model, false);
  BpeVocabulary vocabulary;
  vocabulary.fallback = read_fallback(model, where);
  std::vector<Piece> strangers;
  vocabulary.merges =
      merges_by_score(all.pieces, all.scores, static_cast<int32_t>(model.tokens.size()), strangers, where);
  vocabulary.pieces = all.pieces;
  return std::make_unique<const Bpe>(vocabulary, strangers);
}

// An unknown character costs this much more than the worst token (src/unigram_model.cc).
constexpr float kUnknownPenalty = 10;

std::unique_ptr<const TokenModel> make_unigram(const Model& model, const std::string& where) {
  UnigramVocabulary vocabulary;
  vocabulary.fallback = read_fallback(model, where);
  vocabulary.single_precision = true;
  vocabulary.unknown_score = extremes_of(model).least - kUnknownPenalty;
  vocabulary.pieces = pieces_of(model, true).pieces;
  const std::vector<double> scores = unigram_scores(model);
  for (const Piece& piece : vocabulary.pieces) vocabulary.scores.push_back(scores[static_cast<size_t>(piece.id)]);
  return std::make_unique<const Unigram>(vocabulary, where);
}

// Control and unknown tokens are looked for before normalization, user-defined ones after it.
void add_special_tokens(const Model& model, TokenizerParts& parts) {
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    const Model::Token& token = model.tokens[id];
    const bool special = token.type == Model::kControl || token.type == Model::kUnknown;
    const bool frozen = model.kind == Model::kBpe && token.type == Model::kUserDefined;
    if (special || frozen) parts.added.push_back({static_cast<int32_t>(id), token.text, special, frozen});
  }
}

normalize::SentencePiece rules_of(const Model& model, const std::string& where) {
  normalize::SentencePiece rules{std::make_shared<const Charsmap>(model.charsmap, where),
                                 {},
                                 model.remove_extra_spaces,
                                 model.add_dummy_prefix,
                                 model.escape_spaces,
                                 model.spaces_as_suffix};
  const bool changes_letters = !rules.map->empty() || rules.remove_extra_spaces;
  for (const Model::Token& token : model.tokens)
    if (token.type == Model::kUserDefined && changes_letters) rules.kept.push_back(token.text);
  std::sort(rules.kept.begin(), rules.kept.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  return rules;
}

void check_tokens(const Model& model, const std::string& where) {
  std::unordered_set<std::string_view> texts;
  for (const Model::Token& token : model.tokens) {
    const std::string here = where + ": token " + std::to_string(&token - model.tokens.data());
    if (token.text.empty() || valid_utf8_prefix(token.text) != token.text.size())
      refuse("a token that is empty or not UTF-8", here);
    if (!std::isfinite(token.score)) refuse("a score that is no number", here);
    if (token.type < Model::kNormal || token.type > Model::kByte) refuse("a type of token that does not exist", here);
    if (!texts.insert(token.text).second) refuse("'" + token.text + "' stands twice", here);
  }
}

}  // namespace

Model read_sentencepiece(std::string_view file, const std::string& where) {
  Model model;
  Message message(file, 0, where);
  while (message.next()) {
    if (message.is(1, Message::kBytes)) model.tokens.push_back(read_token(message.inner()));
    if (message.is(2, Message::kBytes)) read_trainer(message.inner(), model);
    if (message.is(3, Message::kBytes)) read_rules(message.inner(), model);
    if (static_cast<int64_t>(model.tokens.size()) > kMostTokens) message.broken("too many tokens");
  }
  if (model.tokens.empty()) message.broken("no tokens");
  return model;
}

std::vector<std::pair<std::string, std::string>> merges_of(const Model& model, const std::string& where) {
  const Pieces all = pieces_of(model, false);
  const auto free_id = static_cast<int32_t>(model.tokens.size());
  std::vector<Piece> strangers;  // whose merges only a vocabulary with their ids could have
  std::vector<BpeVocabulary::Merge> merges = merges_by_score(all.pieces, all.scores, free_id, strangers, where);
  std::erase_if(merges, [&](const BpeVocabulary::Merge& m) { return m.left >= free_id || m.right >= free_id; });
  const auto text = [&](int32_t id) -> const std::string& { return model.tokens[static_cast<size_t>(id)].text; };
  std::stable_sort(merges.begin(), merges.end(), [&](const auto& a, const auto& b) {
    return a.rank != b.rank ? a.rank < b.rank : text(a.left).size() > text(b.left).size();
  });
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const BpeVocabulary::Merge& merge : merges) pairs.emplace_back(text(merge.left), text(merge.right));
  return pairs;
}

// As in src/unigram_model.cc: of user-defined tokens by the best of the others.
std::vector<double> unigram_scores(const Model& model) {
  constexpr double kUserDefinedPenalty = 0.1;
  const float most = extremes_of(model).most;
  std::vector<double> scores;
  for (const Model::Token& token : model.tokens)
    scores.push_back(token.type == Model::kUserDefined
                         ? static_cast<float>(token.text.size()) * most - kUserDefinedPenalty
                         : token.score);
  return scores;
}

std::unique_ptr<const Tokenizer> make_tokenizer(const Model& model, const std::string& where) {
  TokenizerParts parts;
  check_tokens(model, where);
  for (const Model::Token& token : model.tokens) parts.names.push_back(token.text);
  if (model.kind == Model::kBpe)
    parts.model = make_bpe(model, where);
  else if (model.kind == Model::kUnigram)
    parts.model = make_unigram(model, where);
  else
    refuse("a model that is neither BPE nor Unigram", where);
  parts.normalizer = Normalizer({rules_of(model, where)});
  add_special_tokens(model, parts);
  std::vector<decode::Step> steps;
  if (model.byte_fallback) steps.emplace_back(decode::ByteFallback{});
  if (model.escape_spaces) steps.emplace_back(decode::Replace{"▁", " "});
  const bool blank_before = model.add_dummy_prefix && !model.spaces_as_suffix;
  parts.decoder = Decoder(std::move(steps), {" ", blank_before ? size_t{1} : 0, 0});
  parts.before = model.before;
  parts.after = model.after;
  return std::make_unique<const Tokenizer>(std::move(parts));
}

std::unique_ptr<const Tokenizer> parse_sentencepiece_model(std::string_view file, const std::string& where) {
  return make_tokenizer(read_sentencepiece(file, where), where);
}

}  // namespace choir::text
