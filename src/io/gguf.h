// The GGUF file format (ggml: docs/gguf.md): typed metadata, then tensors that are used in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "io/safetensors.h"

namespace choir::io {

// The types of metadata, by their numbers in the file.
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

// One entry of the metadata. Its views look into the file.
struct GgufEntry {
  std::string_view key;
  GgufType type = GgufType::kU8;  // of an array: of its elements
  bool is_array = false;
  uint64_t count = 1;                // of elements
  std::span<const std::byte> bytes;  // the value or the elements, as the file has them
  size_t byte = 0;                   // of the file, where `bytes` begins
};

// Asks the metadata of a file by name. A key that is missing takes the fallback, and is an error where there is none. A
// wrong type or a value outside [least, most] is always an error: Error (input) that names file, key and byte. Whole
// numbers of every width and sign are taken alike. Borrows the file's bytes. Threads may read it at the same time.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  GgufMetadata(std::vector<GgufEntry> entries, std::string path);

  const std::vector<GgufEntry>& entries() const { return entries_; }  // in the order of the file
  const GgufEntry* find(std::string_view key) const;                  // null when there is none
  bool has(std::string_view key) const { return find(key) != nullptr; }

  int64_t get_int(std::string_view key, int64_t least, int64_t most, std::optional<int64_t> fallback = {}) const;
  double get_number(std::string_view key, double least, double most, std::optional<double> fallback = {}) const;
  bool get_bool(std::string_view key, std::optional<bool> fallback = {}) const;
  std::string get_string(std::string_view key, std::optional<std::string> fallback = {}) const;

  // Arrays; where a key is missing, an empty one. One number stands for an array of one.
  std::vector<int64_t> ints(std::string_view key, int64_t least, int64_t most) const;
  std::vector<double> numbers(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;  // they look into the file

  // For errors about an entry: "file: key "x": byte n".
  std::string place_of(const GgufEntry& entry) const;
  const std::string& path() const { return path_; }

 private:
  const GgufEntry* find(std::string_view key, bool required) const;
  [[noreturn]] void refuse(const GgufEntry& entry, const std::string& wanted) const;

  std::vector<GgufEntry> entries_;
  std::unordered_map<std::string_view, size_t> index_;
  std::string path_;
};

struct Gguf {
  std::vector<Tensor> tensors;  // in the order of their bytes; shapes in row-major order, the file has them reversed
  GgufMetadata metadata;
  uint32_t version = 0;
};

// Reads the bytes of a whole file; `path` only names it in errors. Believes nothing: every count and length is checked
// against what is left of the file, the tensors must follow each other up to the padding, in any order, to the end of
// the file. Versions 2 and 3, little-endian. Throws Error (input) with file, key or tensor, and byte.
Gguf parse_gguf(std::span<const std::byte> file, const std::string& path);

// A file mapped into memory, or the first of several parts (key split.count): then all, which lie beside it as
// NAME-00001-of-0000N.gguf. The parts must agree with their names, with the first and in the number of tensors; no name
// may stand twice. Tensors and metadata die with it, and survive its being moved. Threads may read it at the same time.
// Throws Error (input).
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);

  const std::vector<Tensor>& tensors() const { return contents_.tensors; }  // part by part
  const Tensor* find(std::string_view name) const;                          // null when there is none
  const GgufMetadata& metadata() const { return contents_.metadata; }       // of the first part
  const std::string& path() const { return files_.front()->path(); }        // of the first part
  // For views that must outlive this object.
  const std::vector<std::shared_ptr<const base::MappedFile>>& files() const { return files_; }

 private:
  std::vector<std::shared_ptr<const base::MappedFile>> files_;
  Gguf contents_;
  std::unordered_map<std::string_view, size_t> index_;  // keys look into contents_
};

// Which number GGUF files have for a type; none for the types that they cannot hold.
std::optional<uint32_t> gguf_number_of(tensor::DType type);

}  // namespace choir::io
