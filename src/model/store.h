// The tensors of a model as its file will hold them.
#pragma once

#include <vector>

#include "model/load.h"

namespace choir::model {

struct StoredTensors {
  std::vector<io::Tensor> tensors;  // they look into the model, into its files or into `made`
  Owned made;
};

enum class Contents { kNumbers, kSizes };  // kSizes: what had to be made has its size and nothing else

// Under the names of the family, one tensor for each matrix of each expert; of families whose own code reads experts
// that are stacked, stacked, where those of a layer have one width and one number format. Vectors, which loading made
// float, are written as `files` has them where they still are the same; `files` may be null. Blocks are refused as
// check_storable does.
StoredTensors stored_tensors(const Config& config, const ModelTensors<Weight>& tensors,
                             const io::TensorDirectory* files, Contents contents);

// Throws Error (input) that names `where` and the first tensor that safetensors cannot hold.
void check_storable(const Config& config, const ModelTensors<Weight>& tensors, const std::string& where);

// The tensor as a file holds it.
io::Tensor as_stored(const TensorInfo& info, const Weight& weight);

}  // namespace choir::model
