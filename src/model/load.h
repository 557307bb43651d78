// The tensors of a model in the files of a directory, whatever layout and number format they have there.
#pragma once

#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "io/shard_index.h"
#include "model/families/family.h"
#include "model/tensors.h"
#include "tensor/buffer.h"

namespace choir::model {

using Bytes = tensor::Buffer<std::byte>;
using Owned = std::vector<std::shared_ptr<const Bytes>>;

// The numbers of `weight`, aligned, as they are or in another format that the kernels compute with; they live in
// `owned`.
Weight copy_of(const Weight& weight, tensor::DType type, Owned& owned);

// What becomes of weights that lie in panels in the files. kToRows: they are unpacked, for whoever needs rows. kStay:
// those that products alone read stay where and as they are.
enum class Panels { kToRows, kStay };

// Everything throws Error (input) that names the tensor.
class Loader {
 public:
  // All must outlive it. What cannot stay in the files goes to `owned`: vectors, which become float; what is not
  // aligned; what lies there transposed or in a format that the kernels do not compute with; panels as said.
  Loader(const Config& config, const io::TensorDirectory& files, const std::string& where, Owned& owned,
         Panels panels = Panels::kToRows);

  // Experts of one layer may stand under their own names or stacked in two tensors; either way they are not copied
  // where gate and up rows are runs.
  Weight find(const TensorInfo& info);
  bool has(const TensorInfo& info);
  // The head of a tied model where the files have it once more, in panels, and these stay; else without data.
  Weight tied_head();
  // Refuses a tensor that nothing asked for, unless files carry it along for others: returns those, each with the
  // reason.
  std::vector<std::string> check_rest() const;

 private:
  const io::Tensor* look_up(const std::string& name);
  Weight direct(const io::Tensor& tensor, const TensorInfo& info);
  Weight as_described(const io::Tensor& tensor, const std::string& text, const TensorInfo& info);
  const std::string* description(const io::Tensor& tensor) const;  // null: there is none
  Weight with_scales(const io::Tensor& tensor, const TensorInfo& info);
  const io::Tensor* stacked(const TensorInfo& info, const std::string& suffix);
  Weight unstacked(const io::Tensor& tensor, const TensorInfo& info);
  Weight transposed(const io::Tensor& tensor, const TensorInfo& info);
  Weight from_blocks(const io::Tensor& blocks, const io::Tensor& scales, const TensorInfo& info);
  Weight bias(const io::Tensor& tensor, const TensorInfo& info);
  void check_shape(const io::Tensor& tensor, const std::vector<int64_t>& wanted) const;
  void check_type(const io::Tensor& tensor) const;
  std::string reason_to_pass(const std::string& name) const;  // empty: there is none

  const Config& config_;
  const Names& names_;
  const io::TensorDirectory& files_;
  const std::string& where_;
  Owned& owned_;
  std::unordered_set<std::string> used_, stay_;  // stay_: tensors whose panels do
};

}  // namespace choir::model
