// The compiled table of SentencePiece that says which letters to put for which: a double-array trie and a heap of
// texts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace choir::text {

// Immutable; threads may share it.
class Charsmap {
 public:
  struct Match {
    size_t size;                   // bytes of text that it replaces
    std::string_view replacement;  // lives as long as the map
  };

  // An empty blob is a map without entries. Throws Error (input) that names `where` when sizes do not fit.
  Charsmap(std::string_view blob, const std::string& where);

  bool empty() const { return units_.empty(); }

  // The shortest and the longest entry that the text begins with.
  std::optional<Match> shortest(std::string_view text) const { return find(text, true); }
  std::optional<Match> longest(std::string_view text) const { return find(text, false); }

 private:
  std::optional<Match> find(std::string_view text, bool first) const;

  std::vector<uint32_t> units_;
  std::string texts_;  // each ended by a NUL
};

}  // namespace choir::text
