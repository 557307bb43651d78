#include "text/charsmap.h"

#include <cstring>

#include "base/error.h"
#include "text/utf8.h"

namespace choir::text {
namespace {

// A unit of Darts-clone (https://github.com/s-yata/darts-clone, include/darts.h).
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) == 1; }
uint32_t value_of(uint32_t unit) { return unit & 0x7fffffff; }
uint32_t label_of(uint32_t unit) { return unit & 0x800000ff; }
uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

bool is_tail(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

// u32 bytes of the trie, the trie in units of u32, the texts; little-endian.
Charsmap::Charsmap(std::string_view blob, const std::string& where) {
  if (blob.empty()) return;
  uint32_t size = 0;
  if (blob.size() > sizeof(size)) std::memcpy(&size, blob.data(), sizeof(size));
  if (size == 0 || size % sizeof(uint32_t) != 0 || size > blob.size() - sizeof(size))
    base::input_error("a table of letters whose parts do not fit its " + std::to_string(blob.size()) + " bytes", where,
                      "the file is damaged; fetch or write it again");
  units_.resize(size / sizeof(uint32_t));
  std::memcpy(units_.data(), blob.data() + sizeof(size), size);
  texts_ = blob.substr(sizeof(size) + size);
  texts_ += '\0';
  if (valid_utf8_prefix(texts_) != texts_.size())
    base::input_error("a table of letters that is not UTF-8", where, "the file is damaged; fetch or write it again");
}

std::optional<Charsmap::Match> Charsmap::find(std::string_view text, bool first) const {
  std::optional<Match> match;
  if (units_.empty()) return match;
  size_t at = offset_of(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (byte == 0 || at >= units_.size() || label_of(units_[at]) != byte) break;
    const uint32_t unit = units_[at];
    at ^= offset_of(unit);
    if (at >= units_.size()) break;
    if (!has_leaf(unit)) continue;
    const uint32_t begin = value_of(units_[at]);
    // Neither the key nor the text may begin or end inside a character.
    if (begin >= texts_.size() || is_tail(texts_[begin])) continue;
    if (i + 1 < text.size() && is_tail(text[i + 1])) continue;
    match = Match{i + 1, std::string_view(texts_.c_str() + begin)};
    if (first) break;
  }
  return match;
}

}  // namespace choir::text
