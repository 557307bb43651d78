#include "text/gguf_vocabulary.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/gguf_pre.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using Type = SentencePieceModel::Type;  // GGUF took the numbers over

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  base::input_error(what, where, "the file is damaged, or needs what is not supported");
}

void check_lists(const GgufVocabulary& vocabulary, const std::string& where) {
  const size_t size = vocabulary.tokens.size();
  if (size == 0) refuse("no tokens", where + ": tokenizer.ggml.tokens");
  if (static_cast<int64_t>(size) > kMostTokens) refuse("too many tokens", where + ": tokenizer.ggml.tokens");
  if (!vocabulary.types.empty() && vocabulary.types.size() != size)
    refuse(std::to_string(vocabulary.types.size()) + " types for " + std::to_string(size) + " tokens",
           where + ": tokenizer.ggml.token_type");
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != size)
    refuse(std::to_string(vocabulary.scores.size()) + " scores for " + std::to_string(size) + " tokens",
           where + ": tokenizer.ggml.scores");
  for (const int32_t id : {vocabulary.bos, vocabulary.eos, vocabulary.unknown})
    if (id < -1 || id >= static_cast<int64_t>(size))
      refuse("the token id " + std::to_string(id) + " is outside the vocabulary", where);
}

int type_at(const GgufVocabulary& vocabulary, size_t id) {
  return vocabulary.types.empty() ? static_cast<int>(Type::kNormal) : vocabulary.types[id];
}

std::vector<int32_t> around(int32_t id, bool wanted) {
  return wanted && id >= 0 ? std::vector<int32_t>{id} : std::vector<int32_t>{};
}

std::vector<BpeVocabulary::Merge> read_merges(const GgufVocabulary& vocabulary,
                                              const std::unordered_map<std::string_view, int32_t>& ids,
                                              const std::string& where) {
  std::vector<BpeVocabulary::Merge> merges;
  for (const std::string& merge : vocabulary.merges) {
    const auto rank = static_cast<int32_t>(merges.size());
    const std::string here = where + ": tokenizer.ggml.merges[" + std::to_string(rank) + "]";
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || space + 1 == merge.size()) refuse("'" + merge + "' is not two tokens", here);
    const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
    const auto id_of = [&](const std::string& name) {
      const auto found = ids.find(name);
      if (found == ids.end()) refuse("'" + name + "' is not in the vocabulary", here);
      return found->second;
    };
    merges.push_back({id_of(left), id_of(right), id_of(left + right), rank});
  }
  return merges;
}

std::unique_ptr<const Tokenizer> from_byte_level(const GgufVocabulary& vocabulary, const std::string& where) {
  const Pre& pre = pre_of(vocabulary.pre, where);
  TokenizerParts parts;
  BpeVocabulary bpe;
  bpe.byte_level = true;
  bpe.ignore_merges = pre.ignore_merges;
  bpe.fallback.unknown = vocabulary.unknown;
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& name = vocabulary.tokens[i];
    const auto id = static_cast<int32_t>(i);
    const int type = type_at(vocabulary, i);
    if (name.empty() || valid_utf8_prefix(name) != name.size())
      refuse("a token that is empty or not UTF-8", where + ": tokenizer.ggml.tokens[" + std::to_string(i) + "]");
    parts.names.push_back(name);
    const bool special = type == Type::kControl || type == Type::kUnknown;
    if (special || type == Type::kUserDefined) parts.added.push_back({id, name, special, false});
    if (type != Type::kNormal && type != Type::kByte) continue;
    ids.emplace(name, id);
    if (auto bytes = bytes_of_byte_level(name)) bpe.pieces.push_back({std::move(*bytes), id});
  }
  bpe.merges = read_merges(vocabulary, ids, where);
  parts.model = std::make_unique<const Bpe>(bpe);
  if (pre.nfc) parts.normalizer = Normalizer({normalize::Unicode{normalize::Form::kNfc}});
  std::vector<cut::Step> steps = isolate_matches(pre.patterns, where);
  steps.emplace_back(cut::ByteLetters{});
  parts.pretokenizer = Pretokenizer(std::move(steps));
  parts.decoder = Decoder({decode::ByteLetters{}});
  parts.before = around(vocabulary.bos, vocabulary.add_bos.value_or(false));
  parts.after = around(vocabulary.eos, vocabulary.add_eos.value_or(false));
  return std::make_unique<const Tokenizer>(std::move(parts));
}

}  // namespace

SentencePieceModel sentencepiece_of(const GgufVocabulary& vocabulary, const std::string& where) {
  check_lists(vocabulary, where);
  if (vocabulary.scores.empty()) refuse("no scores", where + ": tokenizer.ggml.scores");
  const bool bpe = vocabulary.model == "llama";
  int32_t unknown = vocabulary.unknown;
  SentencePieceModel model;
  model.kind = bpe ? SentencePieceModel::kBpe : SentencePieceModel::kUnigram;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    int type = type_at(vocabulary, id);
    // Files call more than one token unknown; text becomes only one of them.
    if (type == Type::kUnknown && unknown < 0) unknown = static_cast<int32_t>(id);
    if (type == Type::kUnknown && unknown != static_cast<int32_t>(id)) type = Type::kControl;
    model.tokens.push_back({vocabulary.tokens[id], vocabulary.scores[id], type});
    model.byte_fallback |= type == Type::kByte;
  }
  model.charsmap = vocabulary.charsmap;
  model.add_dummy_prefix = vocabulary.add_space_prefix.value_or(true);
  model.remove_extra_spaces = vocabulary.remove_extra_spaces.value_or(!bpe);
  model.before = around(vocabulary.bos, vocabulary.add_bos.value_or(bpe));
  model.after = around(vocabulary.eos, vocabulary.add_eos.value_or(!bpe));
  return model;
}

std::unique_ptr<const Tokenizer> make_tokenizer(const GgufVocabulary& vocabulary, const std::string& where) {
  if (!vocabulary.json.empty()) return parse_tokenizer(vocabulary.json, where + ": tokenizer.huggingface.json");
  if (vocabulary.model == "llama" || vocabulary.model == "t5")
    return make_tokenizer(sentencepiece_of(vocabulary, where), where);
  check_lists(vocabulary, where);
  if (vocabulary.model == "gpt2") return from_byte_level(vocabulary, where);
  refuse("the model '" + vocabulary.model + "' is not supported", where + ": tokenizer.ggml.model");
}

}  // namespace choir::text
