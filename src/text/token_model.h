// The seam between the front that every tokenizer shares and the kinds of vocabulary behind it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace choir::text {

// Immutable; threads may share it. Knows all tokens by id, added ones too, but does not recognise those in text.
class TokenModel {
 public:
  virtual ~TokenModel() = default;

  // Appends the ids of any bytes.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) const = 0;

  // What a token decodes to. 0 <= id < vocab_size().
  virtual std::string_view bytes(int32_t id) const = 0;
  virtual std::optional<int32_t> id_of(std::string_view name) const = 0;
  virtual int vocab_size() const = 0;
};

}  // namespace choir::text
