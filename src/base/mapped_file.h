// A whole file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace choir::base {

// Owns the mapping; views into bytes() must not outlive it. Movable. Threads may read it at the same time.
// An empty file maps to an empty span. Throws Error (input) when the file cannot be opened or mapped.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  bool holds(std::span<const std::byte> bytes) const;

  // Gives back the memory that these bytes of the file took; they are read again when they are looked at again. For
  // whoever goes through a file that is larger than the memory it may take.
  void forget(std::span<const std::byte> bytes) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace choir::base
