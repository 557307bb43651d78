#include "text/gguf_vocabulary.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/pretokenizer.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using Type = SentencePieceModel::Type;  // GGUF took the numbers over

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  base::input_error(what, where, "the file is damaged, or needs what is not supported");
}

// Cased letters as of the Unicode of its day without Georgian and some of Armenian, as DeepSeek's file lists them.
const std::string kDeepSeekLetters =
    R"(A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af})"
    R"(\x{370}-\x{373}\x{376}-\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1})"
    R"(\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5})"
    R"(\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77})"
    R"(\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d})"
    R"(\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe})"
    R"(\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec})"
    R"(\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124})"
    R"(\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e})"
    R"(\x{2183}-\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}-\x{2cf3})"
    R"(\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e})"
    R"(\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a})"
    R"(\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2})"
    R"(\x{118a0}-\x{118df}\x{1e900}-\x{1e943})";

const std::string kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const std::string kLongDigits = "\\p{N}{1,3}", kDigit = "\\p{N}";
const std::string kBlanks = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// The pattern that cl100k began and others vary.
std::string cl100k(const std::string& digits) {
  return kContractions + "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" + kBlanks;
}

// Words with their capitals apart, and line ends with slashes: o200k.
std::string o200k(const std::string& contractions, const std::string& digits) {
  const std::string upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
  const std::string front = "[^\\r\\n\\p{L}\\p{N}]?";
  return front + upper + "*" + lower + "+" + contractions + "|" + front + upper + "+" + lower + "*" + contractions +
         "|" + digits + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" + kBlanks;
}

struct Pre {
  std::vector<std::string> patterns;
  bool ignore_merges = false;
};

// What tokenizer.ggml.pre stands for: the pre-tokenizers of the published files, under llama.cpp's names for them.
std::map<std::string, Pre> make_pres() {
  const std::string gpt2 = kGpt2Pattern;
  const std::vector<std::string> digits_first = {kDigit, gpt2};
  std::map<std::string, Pre> pres;
  for (const char* name : {"gpt-2", "gpt2", "olmo", "mpt", "jais", "phi-2", "granite-docling"}) pres[name] = {{gpt2}};
  for (const char* name : {"starcoder", "refact", "command-r", "smollm", "codeshell", "minerva-7b"})
    pres[name] = {digits_first};
  for (const char* name : {"llama3", "llama-v3", "llama-bpe", "falcon3"}) pres[name] = {{cl100k(kLongDigits)}, true};
  for (const char* name : {"dbrx", "smaug-bpe", "chatglm-bpe"}) pres[name] = {{cl100k(kLongDigits)}};
  for (const char* name : {"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"}) pres[name] = {{cl100k(kDigit)}};
  for (const char* name : {"gpt-4o", "llama4"}) pres[name] = {{o200k(kContractions + "?", kLongDigits)}};
  pres["tekken"] = {{o200k("", kDigit)}, true};
  pres["falcon"] = {{"[\\p{P}$+<=>^~|`]+", gpt2, "[0-9][0-9][0-9]"}};
  pres["deepseek-llm"] = {{"[\\r\\n]", "\\s?[" + kDeepSeekLetters + "]+",
                           "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
                           "\\s+$", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}+"}};
  pres["deepseek-coder"] = {{"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                             "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", kDigit}};
  pres["deepseek-v3"] = {
      {kLongDigits, "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
       "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
       "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" +
           kBlanks}};
  return pres;
}

const std::map<std::string, Pre>& pres() {
  static const std::map<std::string, Pre> kPres = make_pres();
  return kPres;
}

const Pre& pre_of(const std::string& name, const std::string& where) {
  const auto found = pres().find(name.empty() ? "gpt-2" : name);
  if (found != pres().end()) return found->second;
  std::string known;
  for (const auto& [each, pre] : pres()) known += (known.empty() ? "" : ", ") + each;
  base::input_error("the pre-tokenizer '" + name + "' is not known", where + ": tokenizer.ggml.pre", "known: " + known);
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

std::unique_ptr<const Tokenizer> from_sentencepiece(const GgufVocabulary& vocabulary, const std::string& where) {
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
  return make_tokenizer(model, where);
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
  std::vector<cut::Step> steps = isolate_matches(pre.patterns, where);
  steps.emplace_back(cut::ByteLetters{});
  parts.pretokenizer = Pretokenizer(std::move(steps));
  parts.decoder = Decoder({decode::ByteLetters{}});
  parts.before = around(vocabulary.bos, vocabulary.add_bos.value_or(false));
  parts.after = around(vocabulary.eos, vocabulary.add_eos.value_or(false));
  return std::make_unique<const Tokenizer>(std::move(parts));
}

}  // namespace

std::unique_ptr<const Tokenizer> make_tokenizer(const GgufVocabulary& vocabulary, const std::string& where) {
  check_lists(vocabulary, where);
  if (vocabulary.model == "llama" || vocabulary.model == "t5") return from_sentencepiece(vocabulary, where);
  if (vocabulary.model == "gpt2") return from_byte_level(vocabulary, where);
  refuse("the model '" + vocabulary.model + "' is not supported", where + ": tokenizer.ggml.model");
}

// Of several names the one that says most.
std::string pre_named(const std::vector<std::string>& patterns, bool ignore_merges) {
  for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "starcoder", "gpt-4o"})
    if (const Pre& pre = pres().at(name); pre.patterns == patterns && pre.ignore_merges == ignore_merges) return name;
  for (const auto& [name, pre] : pres())
    if (pre.patterns == patterns && pre.ignore_merges == ignore_merges) return name;
  return {};
}

}  // namespace choir::text
