// The tensors of a model directory, be they in one file or in shards.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/safetensors.h"

namespace choir::io {

// Opens DIR/model.safetensors or, when there is none, the shards that DIR/model.safetensors.index.json names. The index
// and the shards must agree in every name. Keeps the files mapped; tensors die with it and survive its being moved.
// Threads may read it at the same time. Throws Error (input).
class TensorDirectory {
 public:
  explicit TensorDirectory(const std::string& dir);

  const std::vector<Tensor>& tensors() const { return tensors_; }         // file by file, in the order of their bytes
  const Tensor* find(std::string_view name) const;                        // null when there is none
  const Metadata& metadata() const { return files_.front().metadata(); }  // of the first file

 private:
  void open(const std::string& file);
  void open_shards(const std::string& dir, const std::string& index_path);

  std::vector<SafetensorsFile> files_;  // at least one
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // keys look into tensors_
};

}  // namespace choir::io
