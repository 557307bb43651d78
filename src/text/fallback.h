// What a vocabulary does with characters that it does not have.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace choir::text {

struct Fallback {
  static constexpr int32_t kNone = -1;

  Fallback() { bytes.fill(kNone); }

  // Appends the tokens of all bytes, or the unknown token, or nothing where there is neither.
  void append(std::string_view text, std::vector<int32_t>& ids) const {
    for (const char c : text)
      if (bytes[static_cast<unsigned char>(c)] == kNone) {
        if (unknown != kNone) ids.push_back(unknown);
        return;
      }
    for (const char c : text) ids.push_back(bytes[static_cast<unsigned char>(c)]);
  }

  std::array<int32_t, 256> bytes;  // the tokens <0x00> to <0xFF>, or kNone
  int32_t unknown = kNone;
  bool fuse = false;  // unknown characters in a row become one token
};

}  // namespace choir::text
