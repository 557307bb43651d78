#include "text/tokenizer.h"

#include <filesystem>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

// Names under which published vocabularies keep the token that ends a document.
constexpr const char* kEndNames[] = {"<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>"};

// The working memory of one encoding.
struct Encoding {
  const Normalizer& normalizer;
  const Pretokenizer& pretokenizer;
  const AddedTokens& added;
  bool specials;
  std::vector<int32_t>& ids;
  Pretokenizer::Arena arena;  // outlives the call, which remembers words
  std::unique_ptr<TokenModel::Call> call;

  // Valid UTF-8 between the tokens that are recognised before normalization.
  void encode_run(std::string_view text, Place place) {
    if (!normalizer.idle()) text = arena.emplace_back(normalizer.apply(text, place));
    for (const auto& piece : added.cut(text, specials, true)) {
      if (piece.id != AddedTokens::kOrdinary)
        ids.push_back(piece.id);
      else
        pretokenizer.split(piece.text, place, arena, [this](std::string_view word) { call->add(word); });
      place = Place::kAfterToken;
    }
  }

  // Normalizers and patterns see valid text only; each byte that is not becomes its own token.
  void encode_bytes(std::string_view text, Place place) {
    while (!text.empty()) {
      const size_t valid = valid_utf8_prefix(text);
      if (valid > 0) encode_run(text.substr(0, valid), place);
      text.remove_prefix(valid);
      place = Place::kInside;
      if (text.empty()) return;
      call->add_byte(static_cast<unsigned char>(text.front()));
      text.remove_prefix(1);
    }
  }
};

}  // namespace

struct Tokenizer::Insides {
  explicit Insides(TokenizerParts given) : parts(std::move(given)), added(std::move(parts.added)) {
    for (size_t id = 0; id < parts.names.size(); ++id) {
      bytes.push_back(decoded(static_cast<int32_t>(id), false));
      if (!parts.names[id].empty()) ids_by_name.emplace(parts.names[id], static_cast<int32_t>(id));
    }
  }

  // An added token decodes to what was found of it.
  std::string decoded(int32_t id, bool first) const {
    const AddedToken* token = added.find(id);
    return parts.decoder.bytes(token ? token->content : parts.names[id], first, token);
  }

  TokenizerParts parts;
  AddedTokens added;
  std::vector<std::string> bytes;                             // by id, of a token inside a text
  std::unordered_map<std::string_view, int32_t> ids_by_name;  // names live in parts
};

Tokenizer::Tokenizer(TokenizerParts parts) : insides_(std::make_unique<const Insides>(std::move(parts))) {}

Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode_with(std::string_view text, bool specials) const {
  std::vector<int32_t> ids;
  const TokenizerParts& parts = insides_->parts;
  Encoding encoding{parts.normalizer, parts.pretokenizer, insides_->added, specials, ids, {}, parts.model->start(ids)};
  Place place = Place::kBegin;
  for (const auto& piece : insides_->added.cut(text, specials, false)) {
    if (piece.id != AddedTokens::kOrdinary)
      ids.push_back(piece.id);
    else
      encoding.encode_bytes(piece.text, place);
    place = Place::kAfterToken;
  }
  return ids;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const { return encode_with(text, true); }

std::vector<int32_t> Tokenizer::encode_ordinary(std::string_view text) const { return encode_with(text, false); }

std::vector<int32_t> Tokenizer::framed(std::vector<int32_t> ids) const {
  const TokenizerParts& parts = insides_->parts;
  ids.insert(ids.begin(), parts.before.begin(), parts.before.end());
  ids.insert(ids.end(), parts.after.begin(), parts.after.end());
  return ids;
}

void Tokenizer::append_text(int32_t id, Decoding& decoding, std::string& text) const {
  std::string_view part = bytes(id);
  std::string at_beginning;
  const Decoder& decoder = insides_->parts.decoder;
  if (decoding.first) part = at_beginning = insides_->decoded(id, true);
  decoding.first = false;
  while (decoding.at_head && !part.empty()) {
    decoding.at_head = decoding.stripped < decoder.head().start && part.starts_with(decoder.head().character);
    if (!decoding.at_head) break;
    part.remove_prefix(decoder.head().character.size());
    ++decoding.stripped;
  }
  text += part;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, Specials specials) const {
  std::string text;
  Decoding decoding;
  for (const int32_t id : ids) {
    const bool hidden = specials == Specials::kSkip && is_special(id);
    if (!name(id).empty() && !hidden) append_text(id, decoding, text);
  }
  return text;
}

std::string_view Tokenizer::bytes(int32_t id) const {
  name(id);
  return insides_->bytes[id];
}

const std::string& Tokenizer::name(int32_t id) const {
  if (id < 0 || id >= vocab_size())
    base::input_error("token id " + std::to_string(id) + " is outside the vocabulary", "tokenizer",
                      "ids run from 0 to " + std::to_string(vocab_size() - 1));
  return insides_->parts.names[id];
}

bool Tokenizer::is_special(int32_t id) const { return insides_->added.is_special(id); }

int Tokenizer::vocab_size() const { return static_cast<int>(insides_->parts.names.size()); }

std::optional<int32_t> Tokenizer::id_of(std::string_view name) const {
  const auto found = insides_->ids_by_name.find(name);
  if (found == insides_->ids_by_name.end()) return std::nullopt;
  return found->second;
}

std::optional<int32_t> Tokenizer::end_of_text() const {
  for (const char* end : kEndNames)
    for (const AddedToken& token : insides_->added.tokens())
      if (name(token.id) == end) return token.id;
  return std::nullopt;
}

const std::string& Tokenizer::json() const { return insides_->parts.json; }

std::unique_ptr<const Tokenizer> parse_tokenizer(std::string json, const std::string& where) {
  TokenizerParts parts = read_tokenizer_parts(json, where);
  parts.json = std::move(json);
  return std::make_unique<const Tokenizer>(std::move(parts));
}

std::unique_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  std::string file = base::read_file(path);
  if (std::filesystem::path(path).filename().string().find(".model") != std::string::npos)
    return parse_sentencepiece_model(file, path);
  return parse_tokenizer(std::move(file), path);
}

void write_tokenizer_json(const Tokenizer& tokenizer, const std::string& path, base::Existing existing) {
  if (tokenizer.json().empty())
    base::usage_error("the tokenizer was not made from a tokenizer.json", path, "begin with a tokenizer.json");
  base::write_file(path, tokenizer.json(), existing);
}

std::string StreamDecoder::push(int32_t id) {
  const bool hidden = specials_ == Specials::kSkip && tokenizer_.is_special(id);
  if (!tokenizer_.name(id).empty() && !hidden) tokenizer_.append_text(id, decoding_, pending_);
  // Bytes that no later byte can turn into a character are shown as they are.
  size_t ready = 0;
  while (ready < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(ready);
    if (unfinished_utf8_character(rest)) break;
    const size_t character = utf8_character(rest);
    ready += character ? character : 1;
  }
  std::string shown = pending_.substr(0, ready);
  pending_.erase(0, ready);
  return shown;
}

std::string StreamDecoder::flush() {
  decoding_ = {};
  return std::exchange(pending_, {});
}

}  // namespace choir::text
