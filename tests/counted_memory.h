// What the program takes from the system, counted. Replaces operator new: for one source of a program.
#pragma once

#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace choir::tests {

// Bytes of every block that the program holds; how many blocks it has taken so far, and the bytes that it asked for.
inline std::atomic<int64_t> held{0}, blocks_taken{0}, bytes_taken{0};

inline void* counted(size_t size, void* block) {
  if (!block) throw std::bad_alloc();
  held += static_cast<int64_t>(malloc_usable_size(block));
  ++blocks_taken;
  bytes_taken += static_cast<int64_t>(size);
  return block;
}

inline void released(void* block) {
  if (block) held -= static_cast<int64_t>(malloc_usable_size(block));
  std::free(block);
}

// What one call takes.
struct Taken {
  int64_t blocks, bytes;
  bool operator==(const Taken&) const = default;
};
template <class Call>
Taken taken_by(const Call& call) {
  const Taken before{blocks_taken, bytes_taken};
  call();
  return {blocks_taken - before.blocks, bytes_taken - before.bytes};
}

}  // namespace choir::tests

void* operator new(size_t size) { return choir::tests::counted(size, std::malloc(size)); }
void* operator new(size_t size, std::align_val_t align) {
  const auto step = static_cast<size_t>(align);
  return choir::tests::counted(size, std::aligned_alloc(step, (size + step - 1) / step * step));
}
void operator delete(void* block) noexcept { choir::tests::released(block); }
void operator delete(void* block, size_t) noexcept { choir::tests::released(block); }
void operator delete(void* block, std::align_val_t) noexcept { choir::tests::released(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { choir::tests::released(block); }
