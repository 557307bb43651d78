#include "text/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "io/json.h"
#include "text/bpe.h"
#include "text/byte_level.h"

namespace choir::text {
namespace {

using io::Fields;
using nlohmann::json;

constexpr int64_t kMostTokens = int64_t{1} << 24;

[[noreturn]] void unsupported(const std::string& part, const std::string& where) {
  base::input_error("the tokenizer uses " + part + ", which is not supported", where, "byte-level BPE is supported");
}

[[noreturn]] void damaged(const std::string& what, const std::string& where) {
  base::input_error(what, where, "the file is damaged; fetch or write it again");
}

bool present(const json& object, const char* key) { return object.contains(key) && !object[key].is_null(); }

const json& array_in(const json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || !object[key].is_array()) damaged("not an array", where + ": " + key);
  return object[key];
}

std::string type_of(const json& part, const std::string& where) { return Fields(part, where).get_string("type"); }

// The patterns that one pre-tokenizer stands for, appended. Digits and Split are those of `tokenizers`.
void append_patterns(const json& part, const std::string& where, std::vector<std::string>& patterns) {
  const Fields fields(part, where);
  const std::string type = type_of(part, where);
  if (type == "Digits") {
    patterns.push_back(fields.get_bool("individual_digits", false) ? "\\p{N}" : "\\p{N}+");
  } else if (type == "Split") {
    if (fields.get_string("behavior") != "Isolated") unsupported("Split.behavior other than Isolated", where);
    if (fields.get_bool("invert", false)) unsupported("Split.invert", where);
    if (!fields.get_object("pattern").has("Regex")) unsupported("Split.pattern other than Regex", where);
    patterns.push_back(fields.get_object("pattern").get_string("Regex"));
  } else if (type == "ByteLevel") {
    if (fields.get_bool("add_prefix_space", true)) unsupported("ByteLevel.add_prefix_space", where);
    if (fields.get_bool("use_regex", true)) patterns.emplace_back(kGpt2Pattern);
  } else {
    unsupported("the pre-tokenizer " + type, where);
  }
}

std::vector<std::string> read_patterns(const json& root, const std::string& file) {
  const std::string where = file + ": pre_tokenizer";
  if (!present(root, "pre_tokenizer")) unsupported("no pre-tokenizer", where);
  const json& part = root["pre_tokenizer"];
  json stages = json::array({part});
  if (type_of(part, where) == "Sequence") stages = array_in(part, "pretokenizers", where);
  std::vector<std::string> patterns;
  for (size_t i = 0; i < stages.size(); ++i) {
    const bool last = i + 1 == stages.size();
    if (last != (type_of(stages[i], where) == "ByteLevel"))
      unsupported("a sequence that ByteLevel does not end", where);
    append_patterns(stages[i], where, patterns);
  }
  if (stages.empty()) unsupported("an empty sequence", where);
  return patterns;
}

// Everything around the model that would change ids or text. Truncation and padding are matters of batches, not of
// text, and are passed over.
void check_surroundings(const json& root, const std::string& file) {
  const bool idle = present(root, "normalizer") && root["normalizer"].is_object() &&
                    root["normalizer"].contains("normalizers") && root["normalizer"]["normalizers"].empty();
  if (present(root, "normalizer") && !idle)
    unsupported("the normalizer " + type_of(root["normalizer"], file + ": normalizer"), file + ": normalizer");
  for (const char* key : {"decoder", "post_processor"}) {
    const std::string where = file + ": " + key;
    if (!present(root, key)) continue;
    const std::string type = type_of(root[key], where);
    if (type != "ByteLevel") unsupported(std::string("the ") + key + " " + type, where);
  }
  if (!present(root, "decoder")) unsupported("no decoder", file + ": decoder");
}

void check_model_options(const json& model, const std::string& where) {
  const Fields fields(model, where);
  if (const std::string type = fields.get_string("type"); type != "BPE") unsupported("the model " + type, where);
  if (fields.get_number("dropout", 0, 1, 0) != 0) unsupported("dropout", where);
  if (fields.has("unk_token")) unsupported("unk_token", where);
  if (fields.get_bool("byte_fallback", false)) unsupported("byte_fallback", where);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!fields.get_string(key, "").empty()) unsupported(key, where);
}

std::vector<AddedToken> read_added_tokens(const json& root, const std::string& file) {
  std::vector<AddedToken> tokens;
  if (!present(root, "added_tokens")) return tokens;
  for (const json& entry : array_in(root, "added_tokens", file)) {
    const std::string where = file + ": added_tokens[" + std::to_string(tokens.size()) + "]";
    const Fields fields(entry, where);
    for (const char* key : {"single_word", "lstrip", "rstrip"})
      if (fields.get_bool(key, false)) unsupported(key, where);
    const bool special = fields.get_bool("special", false);
    tokens.push_back({static_cast<int32_t>(fields.get_int("id", 0, kMostTokens - 1)), fields.get_string("content"),
                      special, fields.get_bool("normalized", !special)});
    if (tokens.back().content.empty()) damaged("an added token without content", where);
  }
  return tokens;
}

// Names by id. Ids must be dense, and two tokens may not share an id; an added token may stand in both lists.
std::vector<BpeVocabulary::Token> read_tokens(const json& vocab, const std::vector<AddedToken>& added,
                                              const std::string& where) {
  std::vector<BpeVocabulary::Token> tokens(std::min(vocab.size() + added.size(), static_cast<size_t>(kMostTokens)));
  size_t known = 0;
  const auto place = [&](int64_t id, const std::string& name, std::string bytes, bool ordinary) {
    if (id < 0 || id >= static_cast<int64_t>(tokens.size()))
      damaged("the id " + std::to_string(id) + " of '" + name + "' leaves holes among the ids", where);
    BpeVocabulary::Token& token = tokens[id];
    if (!token.name.empty() && token.name != name)
      damaged("the id " + std::to_string(id) + " belongs to '" + token.name + "' and to '" + name + "'", where);
    known += token.name.empty();
    token = {name, std::move(bytes), ordinary};
  };
  for (const auto& [name, id] : vocab.items()) {
    if (name.empty()) damaged("an empty token", where);
    if (!id.is_number_integer()) damaged("the id of '" + name + "' is not a whole number", where);
    place(id.get<int64_t>(), name, bytes_of_byte_level(name).value_or(name), true);
  }
  for (const AddedToken& token : added) {
    if (vocab.contains(token.content) && vocab[token.content] != token.id)
      damaged("the added token '" + token.content + "' has another id in the vocabulary", where);
    place(token.id, token.content, token.content, false);
  }
  for (size_t id = 0; id < known; ++id)
    if (tokens[id].name.empty()) damaged("no token has the id " + std::to_string(id), where);
  tokens.resize(known);
  return tokens;
}

// A merge is "left right" in older files and ["left", "right"] in newer ones.
std::pair<std::string, std::string> parts_of_merge(const json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (!merge.is_string()) damaged("not a pair of tokens", where);
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
    damaged("'" + text + "' is not two tokens and one space", where);
  return {text.substr(0, space), text.substr(space + 1)};
}

std::vector<BpeVocabulary::Merge> read_merges(const json& model, const std::string& where) {
  const json& vocab = model["vocab"];
  std::vector<BpeVocabulary::Merge> merges;
  std::set<std::pair<int32_t, int32_t>> seen;
  for (const json& entry : array_in(model, "merges", where)) {
    const std::string here = where + ": merges[" + std::to_string(merges.size()) + "]";
    const auto [left, right] = parts_of_merge(entry, here);
    const auto id_of = [&](const std::string& name) {
      if (!vocab.contains(name)) damaged("'" + name + "' is not in the vocabulary", here);
      return vocab[name].get<int32_t>();
    };
    merges.push_back({id_of(left), id_of(right), id_of(left + right)});
    if (!seen.emplace(merges.back().left, merges.back().right).second)
      damaged("the pair '" + left + " " + right + "' stands twice", here);
  }
  return merges;
}

BpeVocabulary read_vocabulary(const json& model, const std::vector<AddedToken>& added, const std::string& where) {
  if (!model.contains("vocab") || !model["vocab"].is_object()) damaged("not an object", where + ": vocab");
  const json& vocab = model["vocab"];
  BpeVocabulary vocabulary;
  vocabulary.tokens = read_tokens(vocab, added, where + ": vocab");
  vocabulary.merges = read_merges(model, where);
  vocabulary.ignore_merges = Fields(model, where).get_bool("ignore_merges", false);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = byte_level_name(std::string(1, static_cast<char>(byte)));
    if (!vocab.contains(name)) damaged("no token for the byte " + std::to_string(byte), where + ": vocab");
    vocabulary.bytes[byte] = vocab[name].get<int32_t>();
  }
  return vocabulary;
}

}  // namespace

TokenizerParts read_tokenizer_parts(std::string_view text, const std::string& where) {
  const json root = io::parse_json(text, where);
  const std::string in_model = where + ": model";
  if (!root.is_object() || !root.contains("model")) damaged("no model", where);
  check_model_options(root["model"], in_model);
  check_surroundings(root, where);
  std::vector<AddedToken> added = read_added_tokens(root, where);
  auto vocabulary = read_vocabulary(root["model"], added, in_model);
  Pretokenizer pretokenizer(read_patterns(root, where), where + ": pre_tokenizer");
  return {std::make_unique<Bpe>(std::move(vocabulary), std::move(pretokenizer)),
          std::make_unique<AddedTokens>(std::move(added))};
}

// Merges as "left right", which all versions of `tokenizers` read.
std::string byte_level_bpe_json(const ByteLevelBpe& bpe) {
  using Json = nlohmann::ordered_json;
  Json added = Json::array(), vocab = Json::object(), merges = Json::array();
  for (const std::string& content : bpe.special_tokens)
    added.push_back({{"id", added.size()},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  std::vector<std::string> names = bpe.special_tokens;
  for (const std::string& token : bpe.tokens) names.push_back(byte_level_name(token));
  // Names differ, so the linear search of an ordered object's operator[] is not needed.
  auto& entries = vocab.get_ref<Json::object_t&>();
  for (size_t id = 0; id < names.size(); ++id)
    entries.Json::object_t::Container::emplace_back(names[id], static_cast<int64_t>(id));
  for (const auto& [left, right] : bpe.merges) merges.push_back(names[left] + " " + names[right]);

  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", bpe.pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", false},
                      {"vocab", std::move(vocab)},
                      {"merges", std::move(merges)}};
  const Json root = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", std::move(added)},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model", model}};
  return root.dump(2) + "\n";
}

}  // namespace choir::text
