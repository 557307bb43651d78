#include "text/tokenizer.h"

#include <utility>

#include "base/error.h"
#include "text/added_tokens.h"
#include "text/token_model.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

// Names under which published vocabularies keep the token that ends a document.
constexpr const char* kEndNames[] = {"<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>"};

std::vector<int32_t> encode_pieces(const TokenModel& model, const std::vector<AddedTokens::Piece>& pieces) {
  std::vector<int32_t> ids;
  for (const auto& piece : pieces) {
    if (piece.id == AddedTokens::kOrdinary)
      model.encode(piece.text, ids);
    else
      ids.push_back(piece.id);
  }
  return ids;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const TokenModel> model, std::unique_ptr<const AddedTokens> added,
                     std::string json)
    : model_(std::move(model)), added_(std::move(added)), json_(std::move(json)) {}

Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  return encode_pieces(*model_, added_->cut(text, true));
}

std::vector<int32_t> Tokenizer::encode_ordinary(std::string_view text) const {
  return encode_pieces(*model_, added_->cut(text, false));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, Specials specials) const {
  std::string text;
  for (const int32_t id : ids) {
    const std::string_view part = bytes(id);
    if (specials == Specials::kKeep || !is_special(id)) text += part;
  }
  return text;
}

std::string_view Tokenizer::bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size())
    base::input_error("token id " + std::to_string(id) + " is outside the vocabulary", "tokenizer",
                      "ids run from 0 to " + std::to_string(vocab_size() - 1));
  return model_->bytes(id);
}

bool Tokenizer::is_special(int32_t id) const { return added_->is_special(id); }

int Tokenizer::vocab_size() const { return model_->vocab_size(); }

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const { return model_->id_of(token); }

std::optional<int32_t> Tokenizer::end_of_text() const {
  for (const char* name : kEndNames)
    for (const AddedToken& token : added_->tokens())
      if (token.content == name) return token.id;
  return std::nullopt;
}

std::unique_ptr<const Tokenizer> parse_tokenizer(std::string json, const std::string& where) {
  TokenizerParts parts = read_tokenizer_parts(json, where);
  return std::make_unique<const Tokenizer>(std::move(parts.model), std::move(parts.added), std::move(json));
}

std::unique_ptr<const Tokenizer> load_tokenizer(const std::string& path_to_tokenizer_json) {
  return parse_tokenizer(base::read_file(path_to_tokenizer_json), path_to_tokenizer_json);
}

void write_tokenizer_json(const Tokenizer& tokenizer, const std::string& path, base::Existing existing) {
  base::write_file(path, tokenizer.json(), existing);
}

std::string StreamDecoder::push(int32_t id) {
  const std::string_view part = tokenizer_.bytes(id);
  if (specials_ == Specials::kKeep || !tokenizer_.is_special(id)) pending_ += part;
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

std::string StreamDecoder::flush() { return std::exchange(pending_, {}); }

}  // namespace choir::text
