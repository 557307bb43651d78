// The seam between the front that every tokenizer shares and the kinds of vocabulary behind it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace choir::text {

// Immutable; threads may share it. Turns words, as the pre-tokenizer cuts them, into ids.
class TokenModel {
 public:
  // The working memory of one text. One thread.
  class Call {
   public:
    virtual ~Call() = default;

    // Appends the ids of a word: valid UTF-8, or any bytes for a byte-level vocabulary. Its bytes must stay where they
    // are until the call is gone, which may remember words.
    virtual void add(std::string_view word) = 0;

    // Appends what stands for a byte that is not part of a character; nothing when the vocabulary has no such token.
    virtual void add_byte(unsigned char byte) = 0;
  };

  virtual ~TokenModel() = default;
  virtual std::unique_ptr<Call> start(std::vector<int32_t>& ids) const = 0;
};

}  // namespace choir::text
