// The model of a tokenizer.json: its vocabulary, merges or scores.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/json_parts.h"
#include "text/tokenizer_parts.h"
#include "text/unigram.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using io::Fields;
using nlohmann::json;

std::vector<std::string> read_names(const json& vocab, const std::string& where) {
  std::vector<std::string> names;
  for (const auto& [name, id] : vocab.items()) {
    if (name.empty()) damaged_part("an empty token", where);
    if (!id.is_number_integer()) damaged_part("the id of '" + name + "' is not a whole number", where);
    place_name(id > kMostTokens ? kMostTokens : id.get<int64_t>(), name, vocab.size(), names, where);
  }
  return names;
}

// A merge is "left right" in older files and ["left", "right"] in newer ones.
std::pair<std::string, std::string> parts_of_merge(const json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (!merge.is_string()) damaged_part("not a pair of tokens", where);
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
    damaged_part("'" + text + "' is not two tokens and one space", where);
  return {text.substr(0, space), text.substr(space + 1)};
}

std::vector<BpeVocabulary::Merge> read_merges(const json& model, const std::string& where) {
  if (!model.contains("merges") || !model["merges"].is_array()) damaged_part("not an array", where + ": merges");
  const json& vocab = model["vocab"];
  std::vector<BpeVocabulary::Merge> merges;
  std::set<std::pair<int32_t, int32_t>> seen;
  for (const json& entry : model["merges"]) {
    const std::string here = where + ": merges[" + std::to_string(merges.size()) + "]";
    const auto [left, right] = parts_of_merge(entry, here);
    const auto id_of = [&](const std::string& name) {
      const auto found = vocab.find(name);
      if (found == vocab.end()) damaged_part("'" + name + "' is not in the vocabulary", here);
      return found->get<int32_t>();
    };
    const auto rank = static_cast<int32_t>(merges.size());
    merges.push_back({id_of(left), id_of(right), id_of(left + right), rank});
    if (!seen.emplace(merges.back().left, merges.back().right).second)
      damaged_part("the pair '" + left + " " + right + "' stands twice", here);
  }
  return merges;
}

// The tokens <0x00> to <0xFF>; where one is missing there is no fallback for it.
void read_byte_tokens(const std::vector<std::string>& names, Fallback& fallback) {
  for (size_t id = 0; id < names.size(); ++id) {
    unsigned byte = 0;
    char end = 0;
    if (names[id].size() == 6 && std::sscanf(names[id].c_str(), "<0x%2X%c", &byte, &end) == 2 && end == '>')
      fallback.bytes[byte & 0xff] = static_cast<int32_t>(id);
  }
}

void check_bpe_options(const Fields& fields, const std::string& where) {
  if (fields.get_number("dropout", 0, 1, 0) != 0) unsupported_part("dropout", where);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!fields.get_string(key, "").empty()) unsupported_part(key, where);
}

ModelPart read_bpe(const json& model, bool byte_level, const std::string& where) {
  const Fields fields(model, where);
  check_bpe_options(fields, where);
  if (!model.contains("vocab") || !model["vocab"].is_object()) damaged_part("not an object", where + ": vocab");
  ModelPart part{nullptr, read_names(model["vocab"], where + ": vocab")};
  BpeVocabulary vocabulary;
  vocabulary.byte_level = byte_level;
  vocabulary.ignore_merges = fields.get_bool("ignore_merges", false);
  vocabulary.merges = read_merges(model, where);
  for (size_t id = 0; id < part.names.size(); ++id) {
    // A name that is not made of letters for bytes is not the name of any text.
    auto text = byte_level ? bytes_of_byte_level(part.names[id]) : part.names[id];
    if (text && !text->empty()) vocabulary.pieces.push_back({std::move(*text), static_cast<int32_t>(id)});
  }
  if (fields.get_bool("byte_fallback", false)) read_byte_tokens(part.names, vocabulary.fallback);
  vocabulary.fallback.fuse = fields.get_bool("fuse_unk", false);
  if (fields.has("unk_token")) {
    const std::string unknown = fields.get_string("unk_token");
    if (!model["vocab"].contains(unknown)) damaged_part("the unk_token is not in the vocabulary", where);
    vocabulary.fallback.unknown = model["vocab"][unknown].get<int32_t>();
  }
  part.model = std::make_unique<const Bpe>(vocabulary);
  return part;
}

// Names and scores in the order of the ids.
ModelPart read_unigram(const json& model, bool byte_level, const std::string& where) {
  constexpr double kUnknownPenalty = 10;  // of `tokenizers` and SentencePiece
  const Fields fields(model, where);
  if (!model.contains("vocab") || !model["vocab"].is_array()) damaged_part("not an array", where + ": vocab");
  ModelPart part;
  UnigramVocabulary vocabulary;
  double least = std::numeric_limits<double>::infinity();
  for (const json& entry : model["vocab"]) {
    const auto id = static_cast<int32_t>(part.names.size());
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number() || id >= kMostTokens)
      damaged_part("not a token and a score", where + ": vocab[" + std::to_string(id) + "]");
    part.names.push_back(entry[0].get<std::string>());
    least = std::min(least, entry[1].get<double>());
    auto text = byte_level ? bytes_of_byte_level(part.names.back()) : part.names.back();
    if (!text || text->empty()) continue;
    vocabulary.pieces.push_back({std::move(*text), id});
    vocabulary.scores.push_back(entry[1].get<double>());
  }
  vocabulary.unknown_score = least - kUnknownPenalty;
  vocabulary.fallback.fuse = true;
  if (fields.get_bool("byte_fallback", false)) read_byte_tokens(part.names, vocabulary.fallback);
  if (fields.has("unk_id"))
    vocabulary.fallback.unknown =
        static_cast<int32_t>(fields.get_int("unk_id", 0, static_cast<int64_t>(part.names.size()) - 1));
  part.model = std::make_unique<const Unigram>(vocabulary, where);
  return part;
}

}  // namespace

void place_name(int64_t id, const std::string& name, size_t count, std::vector<std::string>& names,
                const std::string& where) {
  constexpr size_t kMostHoles = 1 << 16;
  const int64_t most = std::min(kMostTokens, static_cast<int64_t>(count + kMostHoles));
  if (id < 0 || id >= most) damaged_part("the id " + std::to_string(id) + " of '" + name + "' is out of range", where);
  const auto at = static_cast<size_t>(id);
  if (names.size() <= at) names.resize(at + 1);
  if (!names[at].empty() && names[at] != name)
    damaged_part("'" + names[at] + "' and '" + name + "' share the id " + std::to_string(id), where);
  names[at] = name;
}

ModelPart read_model(const json& part, bool byte_level, const std::string& where) {
  const Fields fields(part, where);
  const std::string guess = part.contains("merges") ? "BPE" : "Unigram";  // older files do not say
  const std::string type = fields.get_string("type", guess);
  if (type == "BPE") return read_bpe(part, byte_level, where);
  if (type == "Unigram") return read_unigram(part, byte_level, where);
  unsupported_part("the model " + type, where);
}

}  // namespace choir::text
