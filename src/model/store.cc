#include "model/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace choir::model {
namespace {

using io::Tensor;
using tensor::DType;

std::vector<int64_t> shape_of(const TensorInfo& info) {
  if (info.vector) return {info.cols};
  return {info.rows, info.cols};
}

Tensor as_read(const TensorInfo& info, const Weight& weight, const io::TensorDirectory* files) {
  const Tensor* found = info.vector && files ? files->find(info.name) : nullptr;
  if (!found || found->shape != shape_of(info)) return as_stored(info, weight);
  std::vector<float> wide(weight.size());
  tensor::widen({found->bytes.data(), found->type, 1, weight.cols}, wide);
  const bool same = std::memcmp(wide.data(), weight.data, weight.bytes()) == 0;
  return same ? *found : as_stored(info, weight);
}

bool one_type(const std::vector<Weight>& a, const std::vector<Weight>& b) {
  const auto same = [&](const Weight& w) { return w.type == a.front().type; };
  return std::ranges::all_of(a, same) && std::ranges::all_of(b, same);
}

// One layer's experts in two tensors: the inverse of what Loader undoes.
class Stack {
 public:
  Stack(const Config& config, int l, const moe::MoeTensors<Weight>& moe, Contents contents, StoredTensors& to)
      : names_(family_of(config.family, "model").names),
        layer_(config.layers[static_cast<size_t>(l)]),
        width_(config.width),
        in_(fmt::format("model.layers.{}.{}", l, names_.mixture)),
        moe_(moe),
        contents_(contents),
        to_(to) {}

  bool possible() const {
    return names_.stacked.written && layer_.experts > 0 && layer_.widths.empty() && one_type(moe_.w1, moe_.w3) &&
           one_type(moe_.w2, moe_.w2);
  }

  void write() {
    const int64_t e = layer_.experts, f = layer_.expert_width, d = width_;
    const bool turned = names_.stacked.interleaved;
    using Shape = std::vector<int64_t>;
    add(names_.stacked.gate_up, turned ? Shape{e, d, 2 * f} : Shape{e, 2 * f, d}, moe_.w1, &moe_.w3);
    add(names_.stacked.down, turned ? Shape{e, f, d} : Shape{e, d, f}, moe_.w2, nullptr);
    if (moe_.b1.empty()) return;
    add(names_.stacked.gate_up + std::string("_bias"), {e, 2 * f}, moe_.b1, &moe_.b3);
    add(names_.stacked.down + std::string("_bias"), {e, d}, moe_.b2, nullptr);
  }

 private:
  // `second` is the up part beside the gate's.
  void add(const std::string& name, const std::vector<int64_t>& shape, const std::vector<Weight>& first,
           const std::vector<Weight>* second) {
    size_t size = 0;
    for (const Weight& w : first) size += w.bytes() * (second ? 2 : 1);
    Tensor tensor{in_ + name, first.front().type, shape, {static_cast<const std::byte*>(nullptr), size}};
    if (contents_ == Contents::kNumbers) {
      Bytes bytes(size);
      std::byte* to = bytes.data();
      for (size_t e = 0; e < first.size(); ++e) to = put(first[e], second ? &(*second)[e] : nullptr, to);
      tensor.bytes = {bytes.data(), size};
      to_.made.push_back(std::make_shared<const Bytes>(std::move(bytes)));
    }
    to_.tensors.push_back(tensor);
  }

  // Returns where the next expert begins.
  std::byte* put(const Weight& first, const Weight* second, std::byte* to) const {
    const std::vector<const Weight*> parts = second ? std::vector{&first, second} : std::vector{&first};
    const size_t size = tensor::size_of(first.type), rows = static_cast<size_t>(first.rows),
                 cols = static_cast<size_t>(first.cols);
    if (!names_.stacked.interleaved) {
      for (const Weight* part : parts) to = std::copy_n(static_cast<const std::byte*>(part->data), part->bytes(), to);
      return to;
    }
    for (size_t c = 0; c < cols; ++c)  // of a bias, which is one row, its numbers in turn
      for (size_t r = 0; r < rows; ++r)
        for (const Weight* part : parts)
          to = std::copy_n(static_cast<const std::byte*>(part->data) + (r * cols + c) * size, size, to);
    return to;
  }

  const Names& names_;
  const LayerConfig& layer_;
  int width_;
  std::string in_;
  const moe::MoeTensors<Weight>& moe_;
  Contents contents_;
  StoredTensors& to_;
};

}  // namespace

Tensor as_stored(const TensorInfo& info, const Weight& weight) {
  return {info.name, weight.type, shape_of(info), {static_cast<const std::byte*>(weight.data), weight.bytes()}};
}

void check_storable(const Config& config, const ModelTensors<Weight>& tensors, const std::string& where) {
  ModelTensors<Weight> views = tensors;
  visit_tensors(config, views, [&](const TensorInfo& info, const Weight& weight) {
    if (tensor::is_blocked(weight.type))
      base::input_error(
          fmt::format("tensor {} is {}, which safetensors cannot hold", info.name, tensor::name_of(weight.type)), where,
          "choir convert MODEL --to safetensors --dtype bf16 makes one that can be written");
  });
}

StoredTensors stored_tensors(const Config& config, const ModelTensors<Weight>& tensors,
                             const io::TensorDirectory* files, Contents contents) {
  check_storable(config, tensors, "model");
  ModelTensors<Weight> views = tensors;
  StoredTensors result;
  std::vector<bool> stacks;
  for (int l = 0; l < config.depth(); ++l) {
    Stack stack(config, l, tensors.blocks[static_cast<size_t>(l)].moe, contents, result);
    stacks.push_back(stack.possible());
    if (stacks.back()) stack.write();
  }
  visit_tensors(config, views, [&](const TensorInfo& info, const Weight& weight) {
    if (info.expert < 0 || !stacks[static_cast<size_t>(info.layer)])
      result.tensors.push_back(as_read(info, weight, files));
  });
  return result;
}

}  // namespace choir::model
