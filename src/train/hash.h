// Tells the inputs of one run from those of another.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace choir::train {

inline constexpr uint64_t kHashStart = 0xcbf29ce484222325;

// FNV-1a, by words of four bytes in place of bytes, the last one filled with zeros; their number first. Not made to
// withstand somebody who wants two inputs to agree.
inline void add_to_hash(std::span<const std::byte> bytes, uint64_t& hash) {
  const auto add = [&](uint64_t word) { hash = (hash ^ word) * 0x100000001b3; };
  add((bytes.size() + 3) / 4);
  for (size_t at = 0; at < bytes.size(); at += 4) {
    uint32_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<size_t>(4, bytes.size() - at));
    add(word);
  }
}

}  // namespace choir::train
