// A trie over bytes. What a node means is kept by its owner, under the node's number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/pair_table.h"

namespace choir::text {

class ByteTrie {
 public:
  static constexpr int32_t kRoot = 0, kNowhere = -1;

  // The node of a key, made when it is not there. Numbers are dense.
  int32_t insert(std::string_view key) {
    int32_t node = kRoot;
    for (const char c : key) {
      const int32_t fresh = size_;
      node = next_.insert(node, static_cast<unsigned char>(c), fresh);
      if (node == fresh) ++size_;
    }
    return node;
  }

  // One byte further, or kNowhere.
  int32_t next(int32_t node, char byte) const {
    const int32_t* found = next_.find(node, static_cast<unsigned char>(byte));
    return found ? *found : kNowhere;
  }

  int32_t find(std::string_view key) const {
    int32_t node = kRoot;
    for (const char c : key)
      if ((node = next(node, c)) == kNowhere) break;
    return node;
  }

  size_t size() const { return static_cast<size_t>(size_); }

 private:
  PairTable<int32_t> next_;
  int32_t size_ = 1;
};

}  // namespace choir::text
