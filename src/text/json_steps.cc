// Normalizers, pre-tokenizers, decoders and post-processors of a tokenizer.json.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/base64.h"
#include "text/json_parts.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

using io::Fields;
using nlohmann::json;

constexpr int64_t kMostRepeats = 1 << 16;

std::string type_of(const json& part, const std::string& where) { return Fields(part, where).get_string("type"); }

const json& list_in(const json& part, const char* key, const std::string& where) {
  if (!part.contains(key) || !part[key].is_array()) damaged_part("not an array", where + ": " + key);
  return part[key];
}

std::string indexed(const std::string& where, const char* key, size_t i) {
  return where + ": " + key + "[" + std::to_string(i) + "]";
}

// A pattern is {"String": text} or {"Regex": pattern}.
struct Pattern {
  std::string text;
  bool regex;
};

Pattern pattern_in(const json& part, const std::string& where) {
  const Fields pattern = Fields(part, where).get_object("pattern");
  const bool regex = pattern.has("Regex");
  Pattern result{pattern.get_string(regex ? "Regex" : "String"), regex};
  if (result.text.empty()) unsupported_part("an empty pattern", where);
  return result;
}

std::shared_ptr<const Regex> compile(const std::string& pattern, const std::string& where) {
  return std::make_shared<const Regex>(pattern, where);
}

void append_normalizers(const json& part, const std::string& where, std::vector<normalize::Step>& steps) {
  using namespace normalize;
  const Fields fields(part, where);
  const std::string type = type_of(part, where);
  if (type == "Sequence") {
    const json& inner = list_in(part, "normalizers", where);
    for (size_t i = 0; i < inner.size(); ++i) append_normalizers(inner[i], indexed(where, "normalizers", i), steps);
  } else if (type == "NFC") {
    steps.emplace_back(Unicode{Form::kNfc});
  } else if (type == "NFD") {
    steps.emplace_back(Unicode{Form::kNfd});
  } else if (type == "NFKC") {
    steps.emplace_back(Unicode{Form::kNfkc});
  } else if (type == "NFKD") {
    steps.emplace_back(Unicode{Form::kNfkd});
  } else if (type == "Lowercase") {
    steps.emplace_back(Lowercase{});
  } else if (type == "StripAccents") {
    steps.emplace_back(StripAccents{});
  } else if (type == "Nmt") {
    steps.emplace_back(Nmt{});
  } else if (type == "Strip") {
    steps.emplace_back(Strip{fields.get_bool("strip_left"), fields.get_bool("strip_right")});
  } else if (type == "Prepend") {
    steps.emplace_back(Prepend{fields.get_string("prepend")});
  } else if (type == "Replace") {
    const Pattern pattern = pattern_in(part, where);
    const std::string content = fields.get_string("content");
    if (pattern.regex)
      steps.emplace_back(ReplaceMatches{compile(pattern.text, where), content});
    else
      steps.emplace_back(Replace{pattern.text, content});
  } else if (type == "Precompiled") {
    const std::string blob = decode_base64(fields.get_string("precompiled_charsmap", ""), where);
    steps.emplace_back(Precompiled{std::make_shared<const Charsmap>(blob, where)});
  } else {
    unsupported_part("the normalizer " + type, where);
  }
}

cut::Behavior behavior_in(const json& part, const std::string& where, const char* fallback) {
  const std::string name = Fields(part, where).get_string("behavior", fallback);
  if (name == "Removed") return cut::Behavior::kRemoved;
  if (name == "Isolated") return cut::Behavior::kIsolated;
  if (name == "Contiguous") return cut::Behavior::kContiguous;
  if (name == "MergedWithPrevious") return cut::Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return cut::Behavior::kMergedWithNext;
  damaged_part("'" + name + "' is no behavior of matches", where);
}

// Which character stands for a blank, and whether one is put in front of a text.
cut::Metaspace metaspace_in(const json& part, const std::string& where) {
  const Fields fields(part, where);
  const std::string scheme = fields.get_string("prepend_scheme", "always");
  cut::Metaspace step{fields.get_string("replacement"), cut::Metaspace::Prepend::kAlways,
                      fields.get_bool("split", true)};
  if (utf8_character(step.mark) != step.mark.size() || step.mark.empty())
    damaged_part("the replacement is not one character", where);
  if (scheme == "never" || !fields.get_bool("add_prefix_space", true))
    step.prepend = cut::Metaspace::Prepend::kNever;
  else if (scheme == "first")
    step.prepend = cut::Metaspace::Prepend::kFirst;
  else if (scheme != "always")
    damaged_part("'" + scheme + "' is no prepend_scheme", where);
  return step;
}

// The pre-tokenizers that are patterns; nothing for the others.
std::optional<std::vector<cut::Split>> splits_of(const json& part, const std::string& type, const std::string& where) {
  using cut::Behavior;
  const Fields fields(part, where);
  const auto split = [&](const std::string& pattern, Behavior behavior, bool invert = false) {
    return std::vector{cut::Split{compile(pattern, where), behavior, invert}};
  };
  const std::string blanks = "\\s", punctuation = "[\\p{P}$+<=>^`|~]",
                    words = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]";
  if (type == "Split") {
    const Pattern pattern = pattern_in(part, where);
    return split(pattern.regex ? pattern.text : quoted_pattern(pattern.text), behavior_in(part, where, "Isolated"),
                 fields.get_bool("invert", false));
  }
  if (type == "Digits") {
    const bool each = fields.get_bool("individual_digits", false);
    return split("\\p{N}", each ? Behavior::kIsolated : Behavior::kContiguous);
  }
  if (type == "Punctuation") return split(punctuation, behavior_in(part, where, "Isolated"));
  if (type == "WhitespaceSplit") return split(blanks, Behavior::kRemoved);
  if (type == "Whitespace")
    return split(words + "+|[^\\p{White_Space}" + words.substr(1) + "+", Behavior::kRemoved, true);
  if (type == "CharDelimiterSplit") return split(quoted_pattern(fields.get_string("delimiter")), Behavior::kRemoved);
  if (type == "FixedLength") {
    const std::string length = std::to_string(fields.get_int("length", 1, kMostRepeats - 1, 5));
    return split("(?s:.){1," + length + "}", Behavior::kIsolated);
  }
  if (type == "BertPreTokenizer") {
    auto splits = split(blanks, Behavior::kRemoved);
    splits.push_back(split(punctuation, Behavior::kIsolated)[0]);
    return splits;
  }
  return std::nullopt;
}

void append_cuts(const json& part, const std::string& where, std::vector<cut::Step>& steps) {
  const Fields fields(part, where);
  const std::string type = type_of(part, where);
  if (type == "Sequence") {
    const json& inner = list_in(part, "pretokenizers", where);
    for (size_t i = 0; i < inner.size(); ++i) append_cuts(inner[i], indexed(where, "pretokenizers", i), steps);
    return;
  }
  if (auto splits = splits_of(part, type, where)) {
    for (cut::Split& split : *splits) steps.emplace_back(std::move(split));
    return;
  }
  for (const cut::Step& step : steps)
    if (std::holds_alternative<cut::ByteLetters>(step)) unsupported_part(type + " after ByteLevel", where);
  if (type == "Metaspace") {
    steps.emplace_back(metaspace_in(part, where));
  } else if (type == "ByteLevel") {
    if (fields.get_bool("add_prefix_space", true)) steps.emplace_back(cut::PrefixSpace{});
    if (fields.get_bool("use_regex", true)) steps.emplace_back(cut::Split{compile(kGpt2Pattern, where)});
    steps.emplace_back(cut::ByteLetters{});
  } else {
    unsupported_part("the pre-tokenizer " + type, where);
  }
}

// Decoders in a row: once the tokens are fused, only the beginning of the text can still change.
struct DecoderSteps {
  std::vector<decode::Step> steps;
  decode::Strip head{"", 0, 0};
  bool fused = false;
};

void append_decoders(const json& part, const std::string& where, DecoderSteps& all) {
  const Fields fields(part, where);
  const std::string type = type_of(part, where);
  if (type == "Sequence") {
    const json& inner = list_in(part, "decoders", where);
    for (size_t i = 0; i < inner.size(); ++i) append_decoders(inner[i], indexed(where, "decoders", i), all);
    return;
  }
  if (all.fused && type != "Strip" && type != "Fuse") unsupported_part(type + " after the tokens are joined", where);
  if (type == "Fuse") {
    all.fused = true;
  } else if (type == "ByteLevel") {
    all.steps.emplace_back(decode::ByteLetters{});
    all.fused = true;
  } else if (type == "ByteFallback") {
    all.steps.emplace_back(decode::ByteFallback{});
  } else if (type == "Metaspace") {
    const cut::Metaspace same = metaspace_in(part, where);
    all.steps.emplace_back(decode::Metaspace{same.mark, same.prepend != cut::Metaspace::Prepend::kNever});
  } else if (type == "Replace") {
    const Pattern pattern = pattern_in(part, where);
    if (pattern.regex)
      all.steps.emplace_back(decode::ReplaceMatches{compile(pattern.text, where), fields.get_string("content")});
    else
      all.steps.emplace_back(decode::Replace{pattern.text, fields.get_string("content")});
  } else if (type == "Strip") {
    const decode::Strip strip{fields.get_string("content"),
                              static_cast<size_t>(fields.get_int("start", 0, kMostRepeats)),
                              static_cast<size_t>(fields.get_int("stop", 0, kMostRepeats))};
    if (utf8_character(strip.character) != strip.character.size() || strip.character.empty())
      damaged_part("the content is not one character", where);
    if (all.fused && (strip.stop > 0 || all.head.start > 0)) unsupported_part("Strip at the end of a text", where);
    if (all.fused)
      all.head = strip;
    else
      all.steps.emplace_back(strip);
  } else {
    unsupported_part("the decoder " + type, where);
  }
}

int32_t id_in(const json& value, const std::string& where) {
  constexpr int64_t kMostId = (int64_t{1} << 24) - 1;
  if (!value.is_number_integer() || value < 0 || value > kMostId) damaged_part("not the id of a token", where);
  return value.get<int32_t>();
}

void wrap(const Frame& outer, Frame& frame) {
  frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
  frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
}

Frame read_template(const json& part, const std::string& where) {
  Frame frame;
  bool text_seen = false;
  const json& pieces = list_in(part, "single", where);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string here = indexed(where, "single", i);
    const Fields piece(pieces[i], here);
    if (piece.has("Sequence")) {
      if (text_seen || piece.get_object("Sequence").get_string("id") != "A") unsupported_part("a second text", here);
      text_seen = true;
      continue;
    }
    const std::string name = piece.get_object("SpecialToken").get_string("id");
    Fields(part, where).get_object("special_tokens").get_object(name);
    for (const json& id : list_in(part["special_tokens"][name], "ids", where + ": special_tokens: " + name))
      (text_seen ? frame.after : frame.before).push_back(id_in(id, here));
  }
  if (!text_seen) unsupported_part("a template without a text", where);
  return frame;
}

// cls and sep of BERT and RoBERTa: [name, id].
int32_t named_id(const json& part, const char* key, const std::string& where) {
  const json& pair = list_in(part, key, where);
  if (pair.size() != 2) damaged_part("not a name and an id", where + ": " + key);
  return id_in(pair[1], where + ": " + key);
}

}  // namespace

void unsupported_part(const std::string& part, const std::string& where) {
  base::input_error("the tokenizer uses " + part + ", which is not supported", where,
                    "docs/formats.md lists the parts that are");
}

void damaged_part(const std::string& what, const std::string& where) {
  base::input_error(what, where, "the file is damaged; fetch or write it again");
}

Normalizer read_normalizer(const json& part, const std::string& where) {
  std::vector<normalize::Step> steps;
  if (!part.is_null()) append_normalizers(part, where, steps);
  return Normalizer(std::move(steps));
}

Pretokenizer read_pretokenizer(const json& part, const std::string& where) {
  std::vector<cut::Step> steps;
  if (!part.is_null()) append_cuts(part, where, steps);
  return Pretokenizer(std::move(steps));
}

Decoder read_decoder(const json& part, const std::string& where) {
  DecoderSteps all;
  if (part.is_null())
    all.steps.emplace_back(decode::JoinWithBlanks{});
  else
    append_decoders(part, where, all);
  return Decoder(std::move(all.steps), std::move(all.head));
}

Frame read_frame(const json& part, const std::string& where) {
  Frame frame;
  if (part.is_null()) return frame;
  const std::string type = type_of(part, where);
  if (type == "Sequence") {
    const json& inner = list_in(part, "processors", where);
    for (size_t i = 0; i < inner.size(); ++i) wrap(read_frame(inner[i], indexed(where, "processors", i)), frame);
  } else if (type == "TemplateProcessing") {
    frame = read_template(part, where);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    frame = {{named_id(part, "cls", where)}, {named_id(part, "sep", where)}};
  } else if (type != "ByteLevel") {
    unsupported_part("the post-processor " + type, where);
  }
  return frame;
}

}  // namespace choir::text
