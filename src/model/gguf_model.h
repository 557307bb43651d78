// A model in a GGUF file, seen as the directory of the family's own files that it stands for.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/shard_index.h"
#include "model/config.h"

namespace choir::model {

bool is_gguf(const std::string& path);  // a model that is a file is one

// kFamily: rows of q and k that the file has in neighbours' order are copied into the family's. kFile: all tensors are
// views, in the order of the file.
enum class RowOrder { kFamily, kFile };

struct GgufModel {
  std::shared_ptr<const io::GgufFile> file;
  // One tensor for each matrix of each expert, under the names of the family; tensors that do not belong to the model
  // are left out.
  std::shared_ptr<const io::TensorDirectory> tensors;
  Config config;
  std::vector<std::string> ignored;  // tensors of the file that the model does not need, each with the reason
};

// Throws Error (input) that names the key or tensor. Experts may be stacked or, in old files, alone; kv_b whole or, in
// new files, in two parts.
GgufModel open_gguf(const std::string& path, RowOrder order);

// The config.json of a model, a directory or a GGUF file.
nlohmann::json config_file_of(const std::string& model);

}  // namespace choir::model
