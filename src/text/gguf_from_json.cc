// What a tokenizer.json says, in the lists of a GGUF file.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "io/json.h"
#include "text/base64.h"
#include "text/gguf_pre.h"
#include "text/gguf_tokens.h"
#include "text/json_parts.h"
#include "text/sentencepiece_model.h"

namespace choir::text {
namespace {

using io::Fields;
using io::Json;
using Type = SentencePieceModel::Type;

constexpr int64_t kMostId = (int64_t{1} << 31) - 1;

// Takes a tokenizer.json apart.
class Export {
 public:
  Export(const std::string& json, std::string where, std::vector<std::string>& notes)
      : root_(io::parse_json(json, where)), where_(std::move(where)), notes_(notes) {}

  GgufVocabulary make(size_t size) {
    if (!root_.is_object() || !root_.contains("model")) damaged_part("no model", where_);
    const Fields model(root_["model"], where_ + ": model");
    const std::string type = model.get_string("type", root_["model"].contains("merges") ? "BPE" : "Unigram");
    stages(root_.value("pre_tokenizer", Json()));
    if (type == "Unigram")
      unigram();
    else if (type == "BPE")
      bpe(model);
    else
      unsupported_part("the model " + type, where_ + ": model");
    fill_up(result_, size);
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

  static bool is_byte(const std::string& name) {
    return name.size() == 6 && name.starts_with("<0x") && name.back() == '>';
  }

  void names() {
    const Json vocab = root_["model"].value("vocab", Json());
    if (!vocab.is_object()) damaged_part("not an object", where_ + ": model.vocab");
    most_ = 1000 + 2 * static_cast<int64_t>(vocab.size());
    for (const auto& [name, id] : vocab.items()) {
      if (!id.is_number_integer()) damaged_part("the id of '" + name + "' is not a whole number", where_);
      put(id.get<int64_t>(), name, is_byte(name) && !byte_level_ ? Type::kByte : Type::kNormal);
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

  void bpe(const Fields& model) {
    names();
    added(model.get_string("unk_token", ""));
    if (byte_level_)
      byte_level(model.get_bool("ignore_merges", false));
    else if (model.get_bool("byte_fallback", false) || model.get_bool("fuse_unk", false))  // as SentencePiece's are
      sentencepiece();
    else
      unsupported_part("a BPE without bytes", where_ + ": model");
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
      result_.scores.push_back(found == score.end() ? kLeastScore : found->second);
    }
    result_.merges.clear();
    spaces();
  }

  // Names and scores in the order of the ids, the same in GGUF.
  void unigram() {
    if (byte_level_) unsupported_part("a Unigram over bytes", where_ + ": model");
    const Json vocab = root_["model"].value("vocab", Json());
    if (!vocab.is_array() || vocab.empty()) damaged_part("not an array of tokens", where_ + ": model.vocab");
    most_ = 1000 + 2 * static_cast<int64_t>(vocab.size());
    for (const Json& entry : vocab) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
        damaged_part("not a token and a score", where_ + ": model.vocab");
      const std::string name = entry[0].get<std::string>();
      put(static_cast<int64_t>(result_.tokens.size()), name, is_byte(name) ? Type::kByte : Type::kNormal);
      result_.scores.push_back(entry[1].get<float>());
    }
    const Fields model(root_["model"], where_ + ": model");
    const auto unknown = static_cast<size_t>(model.get_int("unk_id", 0, std::ssize(result_.tokens) - 1, 0));
    added(unknown < result_.tokens.size() ? result_.tokens[unknown] : "");
    result_.unknown = static_cast<int32_t>(unknown);
    result_.types[unknown] = Type::kUnknown;
    result_.model = "t5";
    result_.pre = "default";
    result_.remove_extra_spaces = false;
    letters(root_.value("normalizer", Json()));
    spaces();
  }

  // What a Unigram's normalizer does, by its parts.
  void letters(const Json& part) {
    if (!part.is_object()) return;
    const Fields fields(part, where_ + ": normalizer");
    const std::string type = fields.get_string("type");
    if (type == "Sequence") {
      for (const Json& one : part.value("normalizers", Json::array())) letters(one);
    } else if (type == "Precompiled") {
      result_.charsmap = decode_base64(fields.get_string("precompiled_charsmap", ""), where_ + ": normalizer");
    } else if (type == "Replace" && fields.get_object("pattern").get_string("Regex", "") == " {2,}") {
      result_.remove_extra_spaces = true;
    } else if (type != "Strip" && type != "Replace" && type != "Prepend" && type != "Nmt") {
      unsupported_part("the normalizer " + type + " of a Unigram", where_);
    }
  }

  void spaces() {
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

GgufVocabulary gguf_vocabulary_of(const std::string& tokenizer_json, size_t size, const std::string& where,
                                  std::vector<std::string>& notes) {
  GgufVocabulary vocabulary = Export(tokenizer_json, where, notes).make(size);
  vocabulary.json = tokenizer_json;
  return vocabulary;
}

}  // namespace choir::text
