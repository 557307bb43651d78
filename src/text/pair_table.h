// A map from pairs of numbers to small values, for the inner loops of merging and of walking through a trie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace choir::text {

// Open addressing in one array that is at most half full. Both numbers of a key are not negative.
template <class Value>
class PairTable {
 public:
  // Room for `count` keys in all.
  explicit PairTable(size_t count = 0) {
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    entries_.resize(size);
  }

  // A key that is there already keeps its value.
  Value& insert(int32_t first, int32_t second, const Value& value) {
    if (2 * (used_ + 1) > entries_.size()) grow();
    Entry& entry = entries_[slot(key(first, second))];
    if (entry.key == kEmpty) {
      entry = {key(first, second), value};
      ++used_;
    }
    return entry.value;
  }

  const Value* find(int32_t first, int32_t second) const {
    const Entry& entry = entries_[slot(key(first, second))];
    return entry.key == kEmpty ? nullptr : &entry.value;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Entry {
    uint64_t key = kEmpty;
    Value value{};
  };

  static uint64_t key(int32_t first, int32_t second) {
    return static_cast<uint64_t>(static_cast<uint32_t>(first)) << 32 | static_cast<uint32_t>(second);
  }

  // Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4): the upper bits of a product.
  size_t slot(uint64_t wanted) const {
    const size_t mask = entries_.size() - 1;
    size_t at = static_cast<size_t>((wanted * 0x9e3779b97f4a7c15ull) >> 32) & mask;
    while (entries_[at].key != wanted && entries_[at].key != kEmpty) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    std::vector<Entry> old(2 * entries_.size());
    old.swap(entries_);
    for (const Entry& entry : old)
      if (entry.key != kEmpty) entries_[slot(entry.key)] = entry;
  }

  std::vector<Entry> entries_;
  size_t used_ = 0;
};

}  // namespace choir::text
