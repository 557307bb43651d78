// The tensors of a model directory, be they in one file or in shards.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/safetensors.h"
#include "tensor/buffer.h"

namespace choir::io {

// Opens DIR/model.safetensors or, when there is none, the shards that DIR/model.safetensors.index.json names. The index
// and the shards must agree in every name. Keeps the files mapped; tensors die with it and survive its being moved.
// Threads may read it at the same time. Throws Error (input).
class TensorDirectory {
 public:
  explicit TensorDirectory(const std::string& dir);

  // Tensors that look into files of another format or into memory, both of which it then keeps. Their names must
  // differ.
  TensorDirectory(std::vector<Tensor> tensors, std::vector<std::shared_ptr<const base::MappedFile>> files,
                  std::vector<std::shared_ptr<const tensor::Buffer<std::byte>>> memory);

  const std::vector<Tensor>& tensors() const { return tensors_; }  // file by file, in the order of their bytes
  const Tensor* find(std::string_view name) const;                 // null when there is none
  const Metadata& metadata() const { return metadata_; }           // of the first file

  // Gives back the memory that these bytes took, where they lie in a file of the directory; else does nothing.
  void forget(std::span<const std::byte> bytes) const;

 private:
  void open(const std::string& file);
  void open_shards(const std::string& dir, const std::string& index_path);

  void make_index();

  std::vector<SafetensorsFile> files_;
  std::vector<std::shared_ptr<const base::MappedFile>> others_;  // of another format
  std::vector<std::shared_ptr<const tensor::Buffer<std::byte>>> memory_;
  Metadata metadata_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // keys look into tensors_
};

}  // namespace choir::io
