// tokenizer.json files that are made here: of vocabularies trained here, and of the lists in GGUF files.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "text/base64.h"
#include "text/byte_level.h"
#include "text/gguf_pre.h"
#include "text/gguf_vocabulary.h"
#include "text/pretokenizer.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_json.h"

namespace choir::text {
namespace {

using Json = nlohmann::ordered_json;
using Type = SentencePieceModel::Type;

constexpr const char* kMark = "▁";

struct Parts {
  Json added = Json::array();
  Json normalizer{}, pretokenizer{}, post_processor{}, decoder{}, model{};
};

std::string file_of(const Parts& parts) {
  const Json root = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", parts.added},
                     {"normalizer", parts.normalizer},
                     {"pre_tokenizer", parts.pretokenizer},
                     {"post_processor", parts.post_processor},
                     {"decoder", parts.decoder},
                     {"model", parts.model}};
  return root.dump(2) + "\n";
}

Json added_token(size_t id, const std::string& content, bool special, bool normalized) {
  return {{"id", id},        {"content", content},       {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", normalized}, {"special", special}};
}

// A list of one step is that step.
Json in_a_row(const char* key, const Json& steps) {
  if (steps.empty()) return nullptr;
  return steps.size() == 1 ? steps.front() : Json{{"type", "Sequence"}, {key, steps}};
}

Json split_at(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json byte_letters(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json replacement(const char* kind, const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{kind, from}}}, {"content", to}};
}

// Names by id. An id without a name has no token; of tokens of one name the first counts.
Json vocabulary_of(const std::vector<std::string>& names) {
  Json vocab = Json::object();
  std::unordered_set<std::string_view> seen;
  // Names differ, so the linear search of an ordered object's operator[] is not needed.
  auto& entries = vocab.get_ref<Json::object_t&>();
  for (size_t id = 0; id < names.size(); ++id)
    if (!names[id].empty() && seen.insert(names[id]).second)
      entries.Json::object_t::Container::emplace_back(names[id], static_cast<int64_t>(id));
  return vocab;
}

// As "left right", which all versions of `tokenizers` read, where that can be told apart.
Json merge_of(const std::string& left, const std::string& right) {
  if (left.find(' ') == std::string::npos && right.find(' ') == std::string::npos) return left + " " + right;
  return Json::array({left, right});
}

Json bpe_model(const std::vector<std::string>& names, Json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocabulary_of(names)},
          {"merges", std::move(merges)}};
}

// What stands around one text, and around two.
Json frame_of(const std::vector<int32_t>& before, const std::vector<int32_t>& after,
              const std::vector<std::string>& names) {
  if (before.empty() && after.empty()) return nullptr;
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto put = [&](const std::vector<int32_t>& ids, int text, Json& list) {
    for (const int32_t id : ids) {
      const std::string& name = names[static_cast<size_t>(id)];
      list.push_back({{"SpecialToken", {{"id", name}, {"type_id", text}}}});
      tokens[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
    }
  };
  for (const int text : {0, 1})
    for (Json* list : {&single, &pair}) {
      if (text == 1 && list == &single) continue;
      put(before, text, *list);
      list->push_back({{"Sequence", {{"id", text == 0 ? "A" : "B"}, {"type_id", text}}}});
      put(after, text, *list);
    }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
}

// Models have more rows than tokens; those who write GGUF files give such ids names of their own.
bool is_filler(const std::string& name, size_t id) {
  const std::string number = std::to_string(id) + "]";
  return name == "[unused" + number || name == "[PAD" + number;
}

std::vector<std::string> names_of(const GgufVocabulary& vocabulary) {
  std::vector<std::string> names = vocabulary.tokens;
  const auto named = {vocabulary.bos, vocabulary.eos, vocabulary.unknown};
  for (size_t id = 0; id < names.size() && !vocabulary.types.empty(); ++id) {
    const bool used = std::ranges::find(named, static_cast<int32_t>(id)) != named.end();
    if (!used && vocabulary.types[id] == Type::kUnused && is_filler(names[id], id)) names[id].clear();
  }
  while (!names.empty() && names.back().empty()) names.pop_back();
  return names;
}

std::vector<int32_t> one_if(std::optional<bool> wanted, int32_t id) {
  return wanted.value_or(false) && id >= 0 ? std::vector<int32_t>{id} : std::vector<int32_t>{};
}

std::string byte_level_json(const GgufVocabulary& vocabulary, const std::string& where) {
  const Pre& pre = pre_of(vocabulary.pre, where);
  const std::vector<std::string> names = names_of(vocabulary);
  Parts parts;
  for (size_t id = 0; id < names.size() && !vocabulary.types.empty(); ++id) {
    const bool special = vocabulary.types[id] == Type::kControl || vocabulary.types[id] == Type::kUnknown;
    if (special || vocabulary.types[id] == Type::kUserDefined)
      parts.added.push_back(added_token(id, names[id], special, false));
  }
  Json merges = Json::array(), cuts = Json::array();
  for (const std::string& merge : vocabulary.merges) {
    const size_t space = merge.find(' ', 1);
    merges.push_back(merge_of(merge.substr(0, space), merge.substr(space + 1)));
  }
  const bool gpt2 = pre.patterns == std::vector<std::string>{kGpt2Pattern};
  for (const std::string& pattern : pre.patterns)
    if (!gpt2) cuts.push_back(split_at(pattern));
  cuts.push_back(byte_letters(gpt2));
  if (pre.nfc) parts.normalizer = {{"type", "NFC"}};
  parts.pretokenizer = in_a_row("pretokenizers", cuts);
  parts.post_processor =
      frame_of(one_if(vocabulary.add_bos, vocabulary.bos), one_if(vocabulary.add_eos, vocabulary.eos), names);
  parts.decoder = byte_letters(true);
  parts.model = bpe_model(names, std::move(merges));
  if (vocabulary.unknown >= 0) parts.model["unk_token"] = names[static_cast<size_t>(vocabulary.unknown)];
  parts.model["ignore_merges"] = pre.ignore_merges;
  return file_of(parts);
}

// What SentencePiece does to a text before its model sees it.
Json normalizer_of(const SentencePieceModel& model) {
  Json steps = Json::array();
  if (!model.charsmap.empty())
    steps.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", base64(model.charsmap)}});
  if (model.remove_extra_spaces) {
    steps.push_back(replacement("Regex", "\\A +| +\\z", ""));
    steps.push_back(replacement("Regex", " {2,}", " "));
  }
  if (model.add_dummy_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", kMark}});
  steps.push_back(replacement("String", " ", kMark));
  return in_a_row("normalizers", steps);
}

Json decoder_of(const SentencePieceModel& model) {
  Json steps = Json::array({replacement("String", kMark, " ")});
  if (model.byte_fallback) steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (model.add_dummy_prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return in_a_row("decoders", steps);
}

// Words end before each mark, unless a token has one inside.
Json words_of(const std::vector<std::string>& names) {
  const bool inside = std::ranges::any_of(names, [](const std::string& name) {
    const size_t mark = name.rfind(kMark);
    return mark != std::string::npos && name.find_first_not_of(kMark) < mark;
  });
  return {{"type", "Metaspace"}, {"replacement", kMark}, {"prepend_scheme", "never"}, {"split", !inside}};
}

Json unigram_model(const SentencePieceModel& model, const std::vector<std::string>& names, const Json& unknown) {
  const std::vector<double> scores = unigram_scores(model);
  double least = 0;
  for (size_t id = 0; id < names.size(); ++id)
    if (model.tokens[id].type == Type::kNormal) least = std::min(least, scores[id]);
  Json vocab = Json::array();
  for (size_t id = 0; id < names.size(); ++id) {
    const int type = model.tokens[id].type;
    const bool counts = type == Type::kNormal || type == Type::kUserDefined;  // the others have a place, and no say
    vocab.push_back({model.tokens[id].text, counts ? scores[id] : std::max(least, scores[id])});
  }
  return {{"type", "Unigram"}, {"unk_id", unknown}, {"vocab", vocab}, {"byte_fallback", model.byte_fallback}};
}

std::string sentencepiece_json(const GgufVocabulary& vocabulary, const std::string& where) {
  const SentencePieceModel model = sentencepiece_of(vocabulary, where);
  const std::vector<std::string> names = names_of(vocabulary);
  const bool bpe = model.kind == SentencePieceModel::kBpe;
  Parts parts;
  Json unknown, merges = Json::array();
  for (size_t id = 0; id < names.size(); ++id) {
    const int type = model.tokens[id].type;
    const bool special = type == Type::kControl || type == Type::kUnknown;
    if (type == Type::kUnknown) unknown = id;
    // With a blank before every piece of text, what is found after normalization would have to begin with one.
    if (special || (bpe && type == Type::kUserDefined))
      parts.added.push_back(added_token(id, names[id], special, !special && !model.add_dummy_prefix));
  }
  if (bpe) {
    for (const auto& [left, right] : merges_of(model, where)) merges.push_back(merge_of(left, right));
    parts.model = bpe_model(names, std::move(merges));
    if (!unknown.is_null()) parts.model["unk_token"] = names[unknown.get<size_t>()];
    parts.model["fuse_unk"] = true;
    parts.model["byte_fallback"] = model.byte_fallback;
  } else {
    parts.model = unigram_model(model, names, unknown);
    parts.pretokenizer = words_of(names);
  }
  parts.normalizer = normalizer_of(model);
  parts.post_processor = frame_of(model.before, model.after, names);
  parts.decoder = decoder_of(model);
  return file_of(parts);
}

}  // namespace

std::string byte_level_bpe_json(const ByteLevelBpe& bpe) {
  Parts parts;
  for (const std::string& content : bpe.special_tokens)
    parts.added.push_back(added_token(parts.added.size(), content, true, false));
  std::vector<std::string> names = bpe.special_tokens;
  for (const std::string& token : bpe.tokens) names.push_back(byte_level_name(token));
  Json merges = Json::array();
  for (const auto& [left, right] : bpe.merges)
    merges.push_back(merge_of(names[static_cast<size_t>(left)], names[static_cast<size_t>(right)]));
  parts.pretokenizer = in_a_row("pretokenizers", Json::array({split_at(bpe.pattern), byte_letters(false)}));
  parts.decoder = byte_letters(false);
  parts.model = bpe_model(names, std::move(merges));
  return file_of(parts);
}

std::string tokenizer_json_of(const GgufVocabulary& vocabulary, const std::string& where) {
  if (!vocabulary.json.empty()) return vocabulary.json;
  make_tokenizer(vocabulary, where);  // refuses what is damaged or not supported
  return vocabulary.model == "gpt2" ? byte_level_json(vocabulary, where) : sentencepiece_json(vocabulary, where);
}

}  // namespace choir::text
