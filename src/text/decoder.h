// From the names of tokens back to text: the decoders of `tokenizers`, one after the other.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace choir::text {

namespace decode {

struct ByteLetters {};   // the letters of byte_level.h become bytes
struct ByteFallback {};  // <0x41> becomes the byte
struct Replace {
  std::string from, to;  // from is not empty
};
struct ReplaceMatches {
  std::shared_ptr<const Regex> pattern;
  std::string to;
};
struct Metaspace {  // marks become blanks; those of the first token go, where one was put in front of the text
  std::string mark;
  bool drop_first;
};
struct Strip {  // of each token, so many characters at most
  std::string character;
  size_t start, stop;
};
struct JoinWithBlanks {};  // tokens after the first begin with a blank

using Step = std::variant<ByteLetters, ByteFallback, Replace, ReplaceMatches, Metaspace, Strip, JoinWithBlanks>;

}  // namespace decode

// Immutable; threads may share it.
class Decoder {
 public:
  // `head`: what the whole text loses at its beginning.
  explicit Decoder(std::vector<decode::Step> steps = {}, decode::Strip head = {"", 0, 0})
      : steps_(std::move(steps)), head_(std::move(head)) {}

  // The bytes of a token inside a text, or at its beginning. An added token keeps letters that could stand for bytes.
  std::string bytes(std::string_view name, bool first, bool added) const;

  const decode::Strip& head() const { return head_; }

 private:
  std::vector<decode::Step> steps_;
  decode::Strip head_;
};

}  // namespace choir::text
