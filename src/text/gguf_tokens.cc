#include "text/gguf_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "io/json.h"
#include "text/json_parts.h"
#include "text/sentencepiece_model.h"

namespace choir::text {
namespace {

using io::Fields;
using io::Json;
using Type = SentencePieceModel::Type;

constexpr int64_t kMostId = (int64_t{1} << 31) - 1;

int32_t id_at(const io::GgufMetadata& metadata, const char* key) {
  return static_cast<int32_t>(metadata.get_int(key, -1, kMostId, -1));
}

std::optional<bool> flag_at(const io::GgufMetadata& metadata, const char* key) {
  if (!metadata.has(key)) return std::nullopt;
  return metadata.get_bool(key);
}

template <class T, class From>
std::vector<T> list_of(const From& from) {
  std::vector<T> list;
  list.reserve(from.size());
  for (const auto& value : from) list.push_back(static_cast<T>(value));
  return list;
}

// Takes a tokenizer.json apart.
class Export {
 public:
  Export(const std::string& json, std::string where, std::vector<std::string>& notes)
      : root_(io::parse_json(json, where)), where_(std::move(where)), notes_(notes) {}

  GgufVocabulary make(size_t size) {
    if (!root_.is_object() || !root_.contains("model")) damaged_part("no model", where_);
    const Fields model(root_["model"], where_ + ": model");
    if (model.get_string("type", "BPE") != "BPE") unsupported_part("a model that is no BPE", where_ + ": model");
    stages(root_.value("pre_tokenizer", Json()));
    names();
    added(model.get_string("unk_token", ""));
    if (byte_level_)
      byte_level(model.get_bool("ignore_merges", false));
    else if (model.get_bool("byte_fallback", false))
      sentencepiece();
    else
      unsupported_part("a BPE without bytes", where_ + ": model");
    for (size_t id = 0; id < std::max(size, result_.tokens.size()); ++id) fill(id);
    frame();
    return std::move(result_);
  }

 private:
  // Every regular expression that cuts text into words, in order.
  void stages(const Json& part) {
    if (!part.is_object()) return;
    const Fields fields(part, where_ + ": pre_tokenizer");
    const std::string type = fields.get_string("type");
    if (type == "Sequence") {
      for (const Json& stage : part.value("pretokenizers", Json::array())) stages(stage);
    } else if (type == "Split") {
      const Fields pattern = fields.get_object("pattern");
      patterns_.push_back(pattern.has("Regex") ? pattern.get_string("Regex") : pattern.get_string("String"));
    } else if (type == "Digits") {
      patterns_.push_back(fields.get_bool("individual_digits", false) ? "\\p{N}" : "\\p{N}+");
    } else if (type == "ByteLevel") {
      byte_level_ = true;
      if (fields.get_bool("use_regex", true)) patterns_.emplace_back(kGpt2Pattern);
    } else if (type != "Metaspace") {
      patterns_.push_back(type);  // no name will stand for it
    }
  }

  void put(int64_t id, const std::string& name, int type) {
    const auto at = static_cast<size_t>(id);
    if (id < 0 || id >= most_) damaged_part("the id " + std::to_string(id) + " leaves holes among the ids", where_);
    if (at >= result_.tokens.size()) {
      result_.tokens.resize(at + 1);
      result_.types.resize(at + 1, Type::kUnused);
    }
    result_.tokens[at] = name;
    result_.types[at] = type;
  }

  void names() {
    const Json vocab = root_["model"].value("vocab", Json());
    if (!vocab.is_object()) damaged_part("not an object", where_ + ": model.vocab");
    most_ = 1000 + 2 * static_cast<int64_t>(vocab.size());
    for (const auto& [name, id] : vocab.items()) {
      if (!id.is_number_integer()) damaged_part("the id of '" + name + "' is not a whole number", where_);
      const bool byte = name.size() == 6 && name.starts_with("<0x") && name.back() == '>';
      put(id.get<int64_t>(), name, byte && !byte_level_ ? Type::kByte : Type::kNormal);
    }
  }

  void added(const std::string& unknown) {
    const Json list = root_.value("added_tokens", Json::array());
    for (const Json& token : list) {
      const Fields fields(token, where_ + ": added_tokens");
      const int64_t id = fields.get_int("id", 0, kMostId);
      const std::string name = fields.get_string("content");
      const bool special = fields.get_bool("special", false);
      put(id, name, name == unknown ? Type::kUnknown : special ? Type::kControl : Type::kUserDefined);
      if (name == unknown) result_.unknown = static_cast<int32_t>(id);
    }
  }

  void merges() {
    const Json list = root_["model"].value("merges", Json::array());
    for (const Json& merge : list) {
      if (merge.is_string())
        result_.merges.push_back(merge.get<std::string>());
      else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
        result_.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
      else
        damaged_part("not a pair of tokens", where_ + ": model.merges");
    }
  }

  void byte_level(bool ignore_merges) {
    merges();
    result_.model = "gpt2";
    result_.pre = pre_named(patterns_, ignore_merges);
    if (!result_.pre.empty()) return;
    result_.pre = "gpt-2";
    notes_.emplace_back("llama.cpp has no name for this tokenizer's words: it will cut text as GPT-2 does");
  }

  // The merge that comes first makes the token of the best score.
  void sentencepiece() {
    merges();
    result_.model = "llama";
    result_.pre = "default";
    std::unordered_map<std::string, float> score;
    for (size_t rank = 0; rank < result_.merges.size(); ++rank) {
      std::string merged = result_.merges[rank];
      merged.erase(merged.find(' ', 1), 1);
      score.emplace(merged, -static_cast<float>(rank));
    }
    for (const std::string& name : result_.tokens) {
      const auto found = score.find(name);
      result_.scores.push_back(found == score.end() ? -1e9f : found->second);
    }
    result_.merges.clear();
    result_.add_space_prefix =
        prefixes(root_.value("normalizer", Json())) || prefixes(root_.value("pre_tokenizer", Json()));
  }

  // Whether a part puts a blank in front of the text.
  static bool prefixes(const Json& part) {
    if (!part.is_object()) return false;
    const std::string type = part.value("type", "");
    if (type == "Prepend") return true;
    if (type == "Metaspace") return part.value("add_prefix_space", part.value("prepend_scheme", "always") != "never");
    const Json parts = part.value("normalizers", part.value("pretokenizers", Json::array()));
    return std::any_of(parts.begin(), parts.end(), prefixes);
  }

  // An id without a token has a name of its own: llama.cpp wants all different.
  void fill(size_t id) {
    if (id >= result_.tokens.size()) {
      result_.tokens.emplace_back();
      result_.types.push_back(Type::kUnused);
    }
    if (result_.tokens[id].empty()) result_.tokens[id] = "[unused" + std::to_string(id) + "]";
    if (!result_.scores.empty() && result_.scores.size() <= id) result_.scores.push_back(-1e9f);
  }

  void frame() {
    const Frame frame = read_frame(root_.value("post_processor", Json()), where_ + ": post_processor");
    if (!frame.before.empty()) result_.bos = frame.before.front();
    if (!frame.after.empty()) result_.eos = frame.after.front();
    result_.add_bos = !frame.before.empty();
    result_.add_eos = !frame.after.empty();
  }

  Json root_;
  std::string where_;
  std::vector<std::string>& notes_;
  std::vector<std::string> patterns_;
  bool byte_level_ = false;
  int64_t most_ = 0;  // ids
  GgufVocabulary result_;
};

}  // namespace

GgufVocabulary read_gguf_vocabulary(const io::GgufMetadata& metadata) {
  GgufVocabulary v;
  v.tokens = list_of<std::string>(metadata.strings("tokenizer.ggml.tokens"));
  if (v.tokens.empty()) return v;
  v.model = metadata.get_string("tokenizer.ggml.model");
  v.pre = metadata.get_string("tokenizer.ggml.pre", "");
  if (v.pre == "default") v.pre.clear();
  v.scores = list_of<float>(metadata.numbers("tokenizer.ggml.scores"));
  v.types = list_of<int32_t>(metadata.ints("tokenizer.ggml.token_type", 0, 99));
  v.merges = list_of<std::string>(metadata.strings("tokenizer.ggml.merges"));
  v.bos = id_at(metadata, "tokenizer.ggml.bos_token_id");
  v.eos = id_at(metadata, "tokenizer.ggml.eos_token_id");
  v.unknown = id_at(metadata, "tokenizer.ggml.unknown_token_id");
  v.add_bos = flag_at(metadata, "tokenizer.ggml.add_bos_token");
  v.add_eos = flag_at(metadata, "tokenizer.ggml.add_eos_token");
  v.add_space_prefix = flag_at(metadata, "tokenizer.ggml.add_space_prefix");
  v.remove_extra_spaces = flag_at(metadata, "tokenizer.ggml.remove_extra_whitespaces");
  for (const int64_t byte : metadata.ints("tokenizer.ggml.precompiled_charsmap", -128, 255))
    v.charsmap.push_back(static_cast<char>(byte));
  return v;
}

void put_gguf_vocabulary(const GgufVocabulary& v, io::GgufHeader& header) {
  const auto put_id = [&](const char* key, int32_t id) {
    if (id >= 0) header.put(key, static_cast<uint32_t>(id));
  };
  const auto put_flag = [&](const char* key, std::optional<bool> flag) {
    if (flag) header.put(key, *flag);
  };
  header.put("tokenizer.ggml.model", v.model);
  if (!v.pre.empty()) header.put("tokenizer.ggml.pre", v.pre);
  header.put("tokenizer.ggml.tokens", std::span<const std::string>(v.tokens));
  if (!v.scores.empty()) header.put("tokenizer.ggml.scores", std::span<const float>(v.scores));
  header.put("tokenizer.ggml.token_type", std::span<const int32_t>(v.types));
  if (!v.merges.empty()) header.put("tokenizer.ggml.merges", std::span<const std::string>(v.merges));
  put_id("tokenizer.ggml.bos_token_id", v.bos);
  put_id("tokenizer.ggml.eos_token_id", v.eos);
  put_id("tokenizer.ggml.unknown_token_id", v.unknown);
  put_flag("tokenizer.ggml.add_bos_token", v.add_bos);
  put_flag("tokenizer.ggml.add_eos_token", v.add_eos);
  put_flag("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
}

GgufVocabulary gguf_vocabulary_of(const std::string& tokenizer_json, size_t size, const std::string& where,
                                  std::vector<std::string>& notes) {
  return Export(tokenizer_json, where, notes).make(size);
}

}  // namespace choir::text
