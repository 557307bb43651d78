#include "text/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "text/json_parts.h"

namespace choir::text {
namespace {

using io::Fields;
using nlohmann::json;

const json& part_of(const json& root, const char* key) {
  static const json kNothing;
  const auto found = root.find(key);
  return found == root.end() ? kNothing : *found;
}

// Names go into `names`, where an added token may stand in the vocabulary too.
std::vector<AddedToken> read_added_tokens(const json& list, const Normalizer& normalizer,
                                          std::vector<std::string>& names, const std::string& file) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  if (!list.is_array()) damaged_part("not an array", file + ": added_tokens");
  const size_t count = names.size() + list.size();
  std::unordered_map<std::string, int64_t> ids;
  for (size_t id = 0; id < names.size(); ++id) ids.emplace(names[id], id);
  for (const json& entry : list) {
    const std::string where = file + ": added_tokens[" + std::to_string(tokens.size()) + "]";
    const Fields fields(entry, where);
    const int64_t id = fields.get_int("id", 0, kMostTokens - 1);
    const std::string name = fields.get_string("content");
    const bool special = fields.get_bool("special", false);
    if (name.empty()) damaged_part("an added token without content", where);
    if (ids.emplace(name, id).first->second != id)
      damaged_part("the added token '" + name + "' has another id in the vocabulary", where);
    place_name(id, name, count, names, where);
    AddedToken token{static_cast<int32_t>(id), name, special, fields.get_bool("normalized", !special)};
    token.single_word = fields.get_bool("single_word", false);
    token.strip_left = fields.get_bool("lstrip", false);
    token.strip_right = fields.get_bool("rstrip", false);
    // What normalization leaves nothing of is never found.
    if (token.normalized) token.content = normalizer.apply(name, Place::kAfterToken);
    if (token.content.empty()) token = {token.id, name, special, true};
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

TokenizerParts read_tokenizer_parts(std::string_view text, const std::string& where) {
  const json root = io::parse_json(text, where);
  if (!root.is_object() || !root.contains("model")) damaged_part("no model", where);
  TokenizerParts parts;
  parts.normalizer = read_normalizer(part_of(root, "normalizer"), where + ": normalizer");
  parts.pretokenizer = read_pretokenizer(part_of(root, "pre_tokenizer"), where + ": pre_tokenizer");
  parts.decoder = read_decoder(part_of(root, "decoder"), where + ": decoder");
  ModelPart model = read_model(root["model"], parts.pretokenizer.byte_level(), where + ": model");
  parts.names = std::move(model.names);
  parts.model = std::move(model.model);
  parts.added = read_added_tokens(part_of(root, "added_tokens"), parts.normalizer, parts.names, where);
  Frame frame = read_frame(part_of(root, "post_processor"), where + ": post_processor");
  for (const auto* ids : {&frame.before, &frame.after})
    for (const int32_t id : *ids)
      if (static_cast<size_t>(id) >= parts.names.size())
        damaged_part("the id " + std::to_string(id) + " is outside the vocabulary", where + ": post_processor");
  parts.before = std::move(frame.before);
  parts.after = std::move(frame.after);
  return parts;
}

}  // namespace choir::text
