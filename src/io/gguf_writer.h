// Writes GGUF files as a stream: first all that is known about the tensors, then their bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/atomic_output.h"
#include "io/gguf.h"

namespace choir::io {

inline constexpr size_t kGgufAlignment = 32;

// What stands in front of the bytes: metadata and tensors in the order they are given. CHECKs that keys and names are
// given once and are as the format wants them.
class GgufHeader {
 public:
  void put(std::string_view key, uint32_t value);
  void put(std::string_view key, float value);
  void put(std::string_view key, bool value);
  void put(std::string_view key, std::string_view value);
  void put(std::string_view key, const char* value) { put(key, std::string_view(value)); }
  void put(std::string_view key, std::span<const int32_t> values);
  void put(std::string_view key, std::span<const float> values);
  void put(std::string_view key, std::span<const std::string> values);
  void put(std::string_view key, std::span<const std::byte> values);  // i8, as llama.cpp has bytes
  void put(const GgufEntry& entry);                                   // as another file has it

  // Shape in row-major order, at most four dimensions; a type with blocks needs rows of whole blocks.
  void declare(std::string_view name, tensor::DType type, std::span<const int64_t> shape);

  // Sizes in bytes of the declared tensors, in their order.
  const std::vector<size_t>& sizes() const { return sizes_; }
  // All that stands in front of the first tensor's bytes, padding included.
  std::string bytes() const;

 private:
  void begin(std::string_view key, GgufType type);
  void begin_array(std::string_view key, GgufType type, size_t count);

  std::string entries_, tensors_;
  uint64_t entry_count_ = 0, next_ = 0;
  std::vector<size_t> sizes_;
  std::unordered_set<std::string> taken_;
};

// A file that appears whole or not at all. The bytes of the tensors come in the order of their declaration, in pieces
// of any size that do not cross from one tensor into the next; the padding is added here.
class GgufWriter {
 public:
  GgufWriter(const std::string& path, const GgufHeader& header, base::Existing existing);

  void write(std::span<const std::byte> piece);
  // CHECKs that every tensor is complete. The file at the path it returns then holds all, and can be looked at before
  // it appears.
  const std::string& finish();
  void commit();  // finish() too

 private:
  void close_finished();

  base::AtomicFile file_;
  std::vector<size_t> sizes_;
  size_t tensor_ = 0, written_ = 0;  // the one that is written, and how much of it
};

}  // namespace choir::io
