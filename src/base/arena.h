// Memory for the lists of a call: taken and given back like a stack, and kept from call to call, so that a step like
// the one before asks nothing of the system.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace choir::base {

class Threads;
class Frame;

// Of one thread at a time.
class Arena {
 public:
  Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

 private:
  friend class Frame;
  struct Block;

  std::byte* take(size_t bytes);

  std::vector<Block> blocks_;  // all is taken from the last; there is one where no frame has met too little
  size_t used_ = 0;            // bytes of the last
  size_t taken_ = 0, most_ = 0;
  Frame* top_ = nullptr;
};

// The lists of one function; they live as long as it does. Frames end in the reverse order of their beginning, and only
// the latest gives lists. Not for the bodies of loops that are shared out.
class Frame {
 public:
  explicit Frame(Threads& threads);
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  ~Frame();

  // Aligned to 64 bytes.
  template <class T>
  std::span<T> list(size_t size, T value = T()) {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
    T* const first = reinterpret_cast<T*>(take(size * sizeof(T)));
    std::uninitialized_fill_n(first, size, value);
    return {first, size};
  }
  // A copy.
  template <class T>
  std::span<std::remove_const_t<T>> list(std::span<T> from) {
    const auto to = list<std::remove_const_t<T>>(from.size());
    std::ranges::copy(from, to.begin());
    return to;
  }

 private:
  std::byte* take(size_t bytes);

  Arena& arena_;
  Frame* below_;
  size_t blocks_, used_, taken_;  // of the arena, when this began
};

}  // namespace choir::base
