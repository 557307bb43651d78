// Text to token ids and back, by the rules of a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_output.h"

namespace choir::text {

struct TokenizerParts;

// Whether decoded text shows special tokens such as <|endoftext|>.
enum class Specials { kSkip, kKeep };

// Immutable: any number of threads may use one tokenizer at the same time. Ids are 0 .. vocab_size() - 1; files may
// leave some of them without a token.
// Text is bytes, UTF-8 by custom. With a byte-level vocabulary that has all bytes and does not normalize, as most, any
// bytes survive encoding and decoding unchanged. What a vocabulary has no token for, not even an unknown one, is lost.
class Tokenizer {
 public:
  explicit Tokenizer(TokenizerParts parts);
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  ~Tokenizer();

  // Special and other added tokens written out in the text become their single ids: for prompts with control tokens.
  std::vector<int32_t> encode(std::string_view text) const;

  // Special tokens are not recognised, their letters are ordinary text: for training data, calibration, user input.
  std::vector<int32_t> encode_ordinary(std::string_view text) const;

  // Puts around the ids of a text what the file says belongs there, <s> in front of it for Llama; often nothing.
  std::vector<int32_t> framed(std::vector<int32_t> ids) const;

  // The bytes of all tokens in a row, without the blank that some vocabularies put in front of a text; a number without
  // a token is nothing. Throws Error (input) for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids, Specials specials = Specials::kSkip) const;

  // The bytes of one token inside a text, perhaps a part of a character; they live as long as the tokenizer. Throws as
  // decode does.
  std::string_view bytes(int32_t id) const;
  bool is_special(int32_t id) const;

  int vocab_size() const;

  // The token's name in tokenizer.json: "<|endoftext|>", or the byte-level form "Ġthe" of " the"; "" where an id has no
  // token. Throws as decode does.
  const std::string& name(int32_t id) const;
  std::optional<int32_t> id_of(std::string_view name) const;

  // The added token that ends a document under one of its usual names, <|endoftext|> or </s>; a model's own
  // configuration may say otherwise.
  std::optional<int32_t> end_of_text() const;

  // The tokenizer.json it was made from; empty when it was made from something else.
  const std::string& json() const;

 private:
  friend class StreamDecoder;
  struct Insides;

  // How far a text is decoded.
  struct Decoding {
    bool first = true;    // no token yet
    size_t stripped = 0;  // characters that the text lost at its beginning
    bool at_head = true;  // it may lose more
  };

  std::vector<int32_t> encode_with(std::string_view text, bool specials) const;
  void append_text(int32_t id, Decoding& decoding, std::string& text) const;

  std::unique_ptr<const Insides> insides_;
};

// All throw Error (input) that names the file and the field when it is damaged, or uses a part Choir does not know.
// `where` stands for the path in messages. A file with ".model" in its name is a SentencePiece model, any other a
// tokenizer.json.
std::unique_ptr<const Tokenizer> load_tokenizer(const std::string& path);
std::unique_ptr<const Tokenizer> parse_tokenizer(std::string json, const std::string& where);
std::unique_ptr<const Tokenizer> parse_sentencepiece_model(std::string_view file, const std::string& where);

// Writes json() to a file that the `tokenizers` package can load. Throws Error (usage) when it is empty.
void write_tokenizer_json(const Tokenizer& tokenizer, const std::string& path, base::Existing existing);

// Decodes a growing answer. Never emits half a UTF-8 character: the start of one is kept back until it is complete.
// All pushes and the flush together are the bytes of decode(). One thread; the tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, Specials specials = Specials::kSkip)
      : tokenizer_(tokenizer), specials_(specials) {}

  std::string push(int32_t id);  // what can be shown now, perhaps nothing
  std::string flush();           // what was kept back, as it is; the decoder is then as new

 private:
  const Tokenizer& tokenizer_;
  Specials specials_;
  Tokenizer::Decoding decoding_;
  std::string pending_;
};

}  // namespace choir::text
