// The safetensors file format: named tensors, read in place and written in one stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/atomic_output.h"
#include "base/mapped_file.h"
#include "tensor/dtype.h"

namespace choir::io {

// Numbers in row-major order, little-endian, that somebody else owns. In a file that is read, `bytes` may begin at any
// address: see is_aligned.
struct Tensor {
  std::string name;
  tensor::DType type = tensor::DType::kF32;
  std::vector<int64_t> shape;  // no dimension at all: one element; a dimension of 0: none
  std::span<const std::byte> bytes;

  size_t elements() const;
};

using Metadata = std::map<std::string, std::string>;

struct Safetensors {
  std::vector<Tensor> tensors;  // in the order of their bytes; they look into the file
  Metadata metadata;
};

// Reads the bytes of a whole file; `path` only names it in errors. Believes nothing: the bytes of the tensors must
// cover the file exactly, without gap, overlap or rest. Also refuses what the format forbids or no writer writes: a
// name that stands twice, an unknown field, more than 32 dimensions. Throws Error (input) with file, tensor and byte.
Safetensors parse_safetensors(std::span<const std::byte> file, const std::string& path);

// A file mapped into memory. Tensors die with it, and survive its being moved. Threads may read it at the same time.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::vector<Tensor>& tensors() const { return contents_.tensors; }
  const Tensor* find(std::string_view name) const;  // null when there is none
  const Metadata& metadata() const { return contents_.metadata; }
  const std::string& path() const { return file_.path(); }
  const base::MappedFile& file() const { return file_; }

 private:
  base::MappedFile file_;
  Safetensors contents_;
  std::unordered_map<std::string_view, size_t> index_;  // keys look into contents_
};

// Writes tensors in any order to a file that appears whole or not at all; equal contents give equal bytes (larger
// elements first, then by name). Nothing is copied. The path may lie inside an AtomicDirectory. Every tensor must have
// its own UTF-8 name and as many bytes as its shape says. Throws Error (input) when the disk refuses.
void write_safetensors(const std::string& path, std::span<const Tensor> tensors, const Metadata& metadata,
                       base::Existing existing);

// What comes first. kReference: larger elements, then by name, as the reference writer does. kLines: the same, but
// tensors of whole lines of 64 bytes before all others, each at a multiple of 64 in the file.
enum class Placing { kReference, kLines };

// The same file as a stream, for tensors that do not exist all at once: `tensors` have names, types, shapes and the
// sizes of their bytes, which are not looked at. The bytes then come tensor by tensor in the order that order() says,
// in pieces of any size.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::span<const Tensor> tensors, const Metadata& metadata,
                    base::Existing existing, Placing placing = Placing::kReference);

  const std::vector<size_t>& order() const { return order_; }  // places in `tensors`
  void write(std::span<const std::byte> piece);
  void commit();  // CHECKs that all bytes came

 private:
  base::AtomicFile file_;
  std::vector<size_t> order_;
  uint64_t left_ = 0;
};

// How many bytes that file would have.
size_t safetensors_size(std::span<const Tensor> tensors, const Metadata& metadata);

// False when a floating-point tensor holds a NaN or an infinity.
bool all_finite(const Tensor& tensor);

// Whether the bytes may be read through a pointer to the element type.
bool is_aligned(const Tensor& tensor);

}  // namespace choir::io
