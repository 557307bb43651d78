// The owner of a block of numbers, aligned for vector loads.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include "tensor/view.h"

namespace choir::tensor {

// At least 64-byte aligned. Large blocks ask for huge pages: they are faster to get and to walk through.
void* allocate(size_t bytes);
void release(void* memory, size_t bytes);

// `size` elements, zero-filled, 64-byte aligned. Movable, not copyable.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(size_t size) : Buffer(unset(size)) { clear(); }
  // For whoever sets every number at once: they are anything.
  static Buffer unset(size_t size) {
    Buffer buffer;
    buffer.size_ = size;
    if (size) buffer.data_ = static_cast<T*>(allocate(size * sizeof(T)));
    return buffer;
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_) release(data_, size_ * sizeof(T));
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) const { return data_[i]; }
  std::span<T> span() const { return {data_, size_}; }
  Matrix<T> matrix(int rows, int cols) const { return {data_, rows, cols}; }  // rows * cols <= size()
  void clear() {
    if (size_) std::memset(static_cast<void*>(data_), 0, size_ * sizeof(T));
  }
  // Makes room for `size` elements, keeping nothing; does not shrink.
  void reserve(size_t size) {
    if (size > size_) *this = Buffer(size);
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace choir::tensor
