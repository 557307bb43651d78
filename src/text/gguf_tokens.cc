#include "text/gguf_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "text/sentencepiece_model.h"

namespace choir::text {
namespace {

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
  v.padding = id_at(metadata, "tokenizer.ggml.padding_token_id");
  v.add_bos = flag_at(metadata, "tokenizer.ggml.add_bos_token");
  v.add_eos = flag_at(metadata, "tokenizer.ggml.add_eos_token");
  v.add_space_prefix = flag_at(metadata, "tokenizer.ggml.add_space_prefix");
  v.remove_extra_spaces = flag_at(metadata, "tokenizer.ggml.remove_extra_whitespaces");
  for (const int64_t byte : metadata.ints("tokenizer.ggml.precompiled_charsmap", -128, 255))
    v.charsmap.push_back(static_cast<char>(byte));
  v.chat_template = metadata.get_string("tokenizer.chat_template", "");
  v.json = metadata.get_string("tokenizer.huggingface.json", "");
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
  put_id("tokenizer.ggml.padding_token_id", v.padding);
  put_flag("tokenizer.ggml.add_bos_token", v.add_bos);
  put_flag("tokenizer.ggml.add_eos_token", v.add_eos);
  put_flag("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
  put_flag("tokenizer.ggml.remove_extra_whitespaces", v.remove_extra_spaces);
  if (!v.charsmap.empty()) header.put("tokenizer.ggml.precompiled_charsmap", std::as_bytes(std::span(v.charsmap)));
  if (!v.chat_template.empty()) header.put("tokenizer.chat_template", v.chat_template);
  if (!v.json.empty()) header.put("tokenizer.huggingface.json", v.json);
}

GgufVocabulary gguf_vocabulary_of(const SentencePieceModel& model, const std::string& where) {
  if (model.kind != SentencePieceModel::kBpe && model.kind != SentencePieceModel::kUnigram)
    base::input_error("a model that is neither BPE nor Unigram", where, "GGUF has a place for these two");
  if (model.spaces_as_suffix || !model.escape_spaces)
    base::input_error("blanks that are no marks in front of words", where, "GGUF has no place for them");
  GgufVocabulary v;
  v.model = model.kind == SentencePieceModel::kBpe ? "llama" : "t5";
  v.pre = "default";
  for (const SentencePieceModel::Token& token : model.tokens) {
    v.tokens.push_back(token.text);
    v.scores.push_back(token.score);
    v.types.push_back(token.type);
  }
  v.charsmap = model.charsmap;
  v.add_space_prefix = model.add_dummy_prefix;
  v.remove_extra_spaces = model.remove_extra_spaces;
  const auto known = [&](int32_t id) { return id >= 0 && id < static_cast<int64_t>(v.tokens.size()) ? id : -1; };
  v.bos = known(model.bos);
  v.eos = known(model.eos);
  v.unknown = known(model.unknown);
  v.padding = known(model.padding);
  return v;
}

// An id without a token has a name of its own: llama.cpp wants all different.
void fill_up(GgufVocabulary& v, size_t size) {
  for (size_t id = 0; id < std::max(size, v.tokens.size()); ++id) {
    if (id >= v.tokens.size()) {
      v.tokens.emplace_back();
      v.types.push_back(SentencePieceModel::kUnused);
    }
    if (v.tokens[id].empty()) v.tokens[id] = "[unused" + std::to_string(id) + "]";
    if (!v.scores.empty() && v.scores.size() <= id) v.scores.push_back(kLeastScore);
  }
}

}  // namespace choir::text
