#include "text/directory_tokens.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "text/gguf_tokens.h"
#include "text/json_parts.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_parts.h"

namespace choir::text {
namespace {

using io::Fields;
using io::Json;

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// A token of tokenizer_config.json is its name, or an object that holds it.
std::string name_in(const Json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  const auto content = found->is_object() ? found->find("content") : found->end();
  return found->is_object() && content != found->end() && content->is_string() ? content->get<std::string>() : "";
}

int32_t id_named(const GgufVocabulary& v, const std::string& name) {
  const auto found = std::ranges::find(v.tokens, name);
  return found == v.tokens.end() ? -1 : static_cast<int32_t>(found - v.tokens.begin());
}

// A text, or a list of named ones of which "default" is what people talk with.
std::string template_in(const Json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  for (const Json& one : *found)
    if (one.is_object() && one.value("name", Json()) == "default" && one.value("template", Json()).is_string())
      return one["template"].get<std::string>();
  return {};
}

void add_config(const Json& config, GgufVocabulary& v) {
  for (const auto& [key, id] : {std::pair{"bos_token", &v.bos}, std::pair{"eos_token", &v.eos},
                                std::pair{"unk_token", &v.unknown}, std::pair{"pad_token", &v.padding}})
    if (const int32_t known = id_named(v, name_in(config, key)); known >= 0) *id = known;
  v.chat_template = template_in(config);
}

// Beside a SentencePiece model: tokens that it does not have, and what stands around a text.
class Additions {
 public:
  explicit Additions(GgufVocabulary& vocabulary) : v_(vocabulary) {}

  void names(const Json& list, const std::string& where) {
    if (!list.is_object()) damaged_part("not an object", where);
    for (const auto& [name, id] : list.items()) {
      if (!id.is_number_integer()) damaged_part("the id of '" + name + "' is not a whole number", where);
      put(id.get<int64_t>(), name, false, where);
    }
  }

  void decoder(const Json& list, const std::string& where) {
    if (!list.is_object()) damaged_part("not an object", where);
    for (const auto& [id, token] : list.items()) {
      const Fields fields(token, where + ": " + id);
      if (id.empty() || id.size() > 8 || id.find_first_not_of("0123456789") != std::string::npos)
        damaged_part("'" + id + "' is not the id of a token", where);
      put(std::stoll(id), fields.get_string("content"), fields.get_bool("special", false), where);
    }
  }

  void flags(const Json& config, const std::string& where) {
    const Fields fields(config, where);
    if (fields.has("add_bos_token")) v_.add_bos = fields.get_bool("add_bos_token");
    if (fields.has("add_eos_token")) v_.add_eos = fields.get_bool("add_eos_token");
  }

 private:
  // What the model itself calls its tokens stays.
  void put(int64_t id, const std::string& name, bool special, const std::string& where) {
    constexpr int64_t kMostHoles = 1 << 16;
    if (id < 0 || id >= std::min<int64_t>(kMostTokens, std::ssize(v_.tokens) + kMostHoles))
      damaged_part("the id " + std::to_string(id) + " of '" + name + "' is out of range", where);
    const auto at = static_cast<size_t>(id);
    fill_up(v_, at + 1);
    if (v_.tokens[at] == name) return;
    if (v_.types[at] != SentencePieceModel::kUnused)
      damaged_part("'" + name + "' has the id of '" + v_.tokens[at] + "'", where);
    v_.tokens[at] = name;
    v_.types[at] = special ? SentencePieceModel::kControl : SentencePieceModel::kUserDefined;
  }

  GgufVocabulary& v_;
};

GgufVocabulary from_sentencepiece(const std::string& directory, const Json& config, std::vector<std::string>& notes) {
  const std::string path = directory + "/tokenizer.model", added = directory + "/added_tokens.json";
  const SentencePieceModel model = read_sentencepiece(base::read_file(path), path);
  GgufVocabulary v = gguf_vocabulary_of(model, path);
  if (v.model == "llama" && !v.charsmap.empty())
    notes.emplace_back("llama.cpp does without the normalization of this tokenizer");
  Additions additions(v);
  const std::string where = directory + "/tokenizer_config.json";
  if (const auto list = config.find("added_tokens_decoder"); list != config.end())
    additions.decoder(*list, where + ": added_tokens_decoder");
  if (exists(added)) additions.names(io::read_json(added), added);
  additions.flags(config, where);
  return v;
}

}  // namespace

bool directory_has_tokens(const std::string& directory) {
  return exists(directory + "/tokenizer.json") || exists(directory + "/tokenizer.model");
}

GgufVocabulary directory_vocabulary(const std::string& directory, size_t size, std::vector<std::string>& notes) {
  const std::string json = directory + "/tokenizer.json", settings = directory + "/tokenizer_config.json",
                    jinja = directory + "/chat_template.jinja";
  const Json config = exists(settings) ? io::read_json(settings) : Json::object();
  if (!config.is_object()) damaged_part("not an object", settings);
  GgufVocabulary v = exists(json) ? gguf_vocabulary_of(base::read_file(json), size, json, notes)
                                  : from_sentencepiece(directory, config, notes);
  fill_up(v, size);
  add_config(config, v);
  if (exists(jinja)) v.chat_template = base::read_file(jinja);
  return v;
}

std::unique_ptr<const Tokenizer> load_directory_tokenizer(const std::string& directory) {
  if (exists(directory + "/tokenizer.json")) return load_tokenizer(directory + "/tokenizer.json");
  std::vector<std::string> notes;
  return make_tokenizer(directory_vocabulary(directory, 0, notes), directory + "/tokenizer.model");
}

void write_directory_tokens(const GgufVocabulary& v, int64_t longest, const std::string& directory,
                            const std::string& where) {
  const std::string json = tokenizer_json_of(v, where);
  parse_tokenizer(json, where + ": its tokens as tokenizer.json");
  base::write_file(directory + "/tokenizer.json", json, base::Existing::kRefuse);
  nlohmann::ordered_json config;
  if (v.add_bos) config["add_bos_token"] = *v.add_bos;
  if (v.add_eos) config["add_eos_token"] = *v.add_eos;
  for (const auto& [key, id] : {std::pair{"bos_token", v.bos}, std::pair{"eos_token", v.eos},
                                std::pair{"unk_token", v.unknown}, std::pair{"pad_token", v.padding}})
    if (id >= 0 && id < std::ssize(v.tokens)) config[key] = v.tokens[static_cast<size_t>(id)];
  if (!v.chat_template.empty()) config["chat_template"] = v.chat_template;
  config["clean_up_tokenization_spaces"] = false;
  config["model_max_length"] = longest;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  base::write_file(directory + "/tokenizer_config.json", config.dump(2) + "\n", base::Existing::kRefuse);
}

}  // namespace choir::text
