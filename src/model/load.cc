#include "model/load.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "base/error.h"
#include "kernels/packed_gemm.h"
#include "model/packed.h"
#include "model/packed_file.h"
#include "tensor/blocks.h"

namespace choir::model {
namespace {

using io::Tensor;
using tensor::DType;
using Part = TensorInfo::Part;

bool computes(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16 || tensor::is_blocked(type);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ',';
    text += std::to_string(size);
  }
  return text + ']';
}

std::byte* room(size_t bytes, Owned& owned) {
  Bytes block(bytes);
  std::byte* data = block.data();
  owned.push_back(std::make_shared<const Bytes>(std::move(block)));
  return data;
}

// "model.layers.61.": 61.
int layer_of(const std::string& name) {
  constexpr std::string_view kBlocks = "model.layers.";
  int layer = -1;
  if (name.starts_with(kBlocks)) std::from_chars(name.data() + kBlocks.size(), name.data() + name.size(), layer);
  return layer;
}

}  // namespace

Weight copy_of(const Weight& weight, DType type, Owned& owned) {
  Weight copy(nullptr, type, weight.rows, weight.cols);
  std::byte* to = room(copy.bytes(), owned);
  copy.data = to;
  if (type == weight.type) {
    std::memcpy(to, weight.data, weight.bytes());
  } else if (type == DType::kF32) {
    tensor::widen(weight, {reinterpret_cast<float*>(to), weight.size()});
  } else {
    std::vector<float> wide(weight.size());
    tensor::widen(weight, wide);
    tensor::narrow(wide, type, {to, copy.bytes()});
  }
  return copy;
}

Loader::Loader(const Config& config, const io::TensorDirectory& files, const std::string& where, Owned& owned,
               Panels panels)
    : config_(config), names_(family_of(config.family, where).names), files_(files), where_(where), owned_(owned) {
  if (panels == Panels::kStay) stay_ = names_in_panels(config);
}

// Some versions of transformers call every family's mixture "mlp.".
const Tensor* Loader::look_up(const std::string& name) {
  const Tensor* found = files_.find(name);
  const std::string mixture = std::string(".") + names_.mixture, other = ".mlp.";
  if (const size_t at = name.find(mixture); !found && at != std::string::npos)
    found = files_.find(name.substr(0, at) + other + name.substr(at + mixture.size()));
  if (found) used_.insert(found->name);
  return found;
}

Weight Loader::find(const TensorInfo& info) {
  if (const Tensor* found = look_up(info.name)) return direct(*found, info);
  if (info.expert >= 0 && info.vector) {
    if (const Tensor* found = stacked(info, "_bias")) return bias(*found, info);
  } else if (info.expert >= 0) {
    if (const Tensor* found = stacked(info, ""))
      return names_.stacked.interleaved ? transposed(*found, info) : unstacked(*found, info);
    const Tensor *blocks = stacked(info, "_blocks"), *scales = stacked(info, "_scales");
    if (blocks && scales) return from_blocks(*blocks, *scales, info);
  }
  base::input_error("tensor missing: " + info.name, where_, "the files do not hold the model of config.json");
}

bool Loader::has(const TensorInfo& info) {
  if (look_up(info.name)) return true;
  if (info.expert < 0) return false;
  if (info.vector) return stacked(info, "_bias");
  return stacked(info, "") || (stacked(info, "_blocks") && stacked(info, "_scales"));
}

void Loader::check_shape(const Tensor& tensor, const std::vector<int64_t>& wanted) const {
  if (tensor.shape != wanted)
    base::input_error(fmt::format("tensor {} has shape {}", tensor.name, shape_text(tensor.shape)), where_,
                      "config.json asks for " + shape_text(wanted));
}

void Loader::check_type(const Tensor& tensor) const {
  if (!computes(tensor.type))
    base::input_error(fmt::format("tensor {} is {}", tensor.name, tensor::name_of(tensor.type)), where_,
                      "weights may be F32, BF16 or F16");
}

Weight Loader::tied_head() {
  const Tensor* found = stay_.empty() ? nullptr : files_.find(kHeadName);
  if (!found || !description(*found)) return {};
  return find({kHeadName, config_.vocab, config_.width, false});
}

const std::string* Loader::description(const Tensor& tensor) const {
  const auto found = files_.metadata().find(tensor.name);
  return tensor.type == DType::kU8 && found != files_.metadata().end() ? &found->second : nullptr;
}

Weight Loader::as_described(const Tensor& tensor, const std::string& text, const TensorInfo& info) {
  if (const std::string reason = reason_against(files_.metadata()); !reason.empty())
    base::input_error(reason, where_, "convert the model that it was made from once more");
  const auto weight = info.vector ? std::nullopt : described(text, info.rows, info.cols);
  if (!weight)
    base::input_error(
        fmt::format("tensor {} is described as another one", tensor.name), where_,
        fmt::format("config.json asks for [{},{}], in panels or in rows of blocks", info.rows, info.cols));
  if (tensor.bytes.size() != bytes_in_file(*weight))
    base::input_error(fmt::format("tensor {} has {} bytes", tensor.name, tensor.bytes.size()), where_,
                      fmt::format("{} takes {}", description_of(*weight), bytes_in_file(*weight)));
  Weight result = *weight;
  result.data = tensor.bytes.data();
  if (result.layout != tensor::Layout::kPanels || stay_.contains(info.name)) return result;
  std::byte* rows = room(result.bytes(), owned_);
  kernels::unpack(result, rows);
  files_.forget(tensor.bytes);
  return {rows, result.type, result.rows, result.cols};
}

Weight Loader::direct(const Tensor& tensor, const TensorInfo& info) {
  if (const std::string* text = description(tensor)) return as_described(tensor, *text, info);
  if (info.vector)
    check_shape(tensor, {info.cols});
  else
    check_shape(tensor, {info.rows, info.cols});
  if (tensor.type == DType::kF8E4M3) return with_scales(tensor, info);
  check_type(tensor);
  const Weight view(tensor.bytes.data(), tensor.type, info.rows, info.cols);
  if (info.vector) return copy_of(view, DType::kF32, owned_);
  return io::is_aligned(tensor) ? view : copy_of(view, view.type, owned_);
}

// Blocks of numbers, the last of a row or column perhaps smaller, share a factor (DeepSeek-V3, README_WEIGHTS.md; the
// name says that it is inverted, and it is not).
Weight Loader::with_scales(const Tensor& tensor, const TensorInfo& info) {
  const Tensor* scales = look_up(tensor.name + "_scale_inv");
  if (!scales) base::input_error("tensor missing: " + tensor.name + "_scale_inv", where_, "F8_E4M3 needs its scales");
  const int high = config_.fp8_block.rows, wide = config_.fp8_block.cols;
  const int rows = (info.rows + high - 1) / high, cols = (info.cols + wide - 1) / wide;
  check_shape(*scales, {rows, cols});
  check_type(*scales);
  std::vector<float> scale(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  tensor::widen({scales->bytes.data(), scales->type, rows, cols}, scale);
  const Weight weight = copy_of({tensor.bytes.data(), tensor.type, info.rows, info.cols}, DType::kF32, owned_);
  auto* numbers = static_cast<float*>(const_cast<void*>(weight.data));
  for (int r = 0; r < info.rows; ++r)
    for (int c = 0; c < info.cols; ++c)
      *numbers++ *= scale[static_cast<size_t>(r / high) * static_cast<size_t>(cols) + static_cast<size_t>(c / wide)];
  return weight;
}

const Tensor* Loader::stacked(const TensorInfo& info, const std::string& suffix) {
  const std::string part = info.part == Part::kDown ? names_.stacked.down : names_.stacked.gate_up;
  return look_up(fmt::format("model.layers.{}.{}{}{}", info.layer, names_.mixture, part, suffix));
}

// [E,2F,D], of each expert the gate's rows first, or [E,D,F]: an expert's rows are a run.
Weight Loader::unstacked(const Tensor& tensor, const TensorInfo& info) {
  const bool down = info.part == Part::kDown;
  const int64_t experts = config_.layers[static_cast<size_t>(info.layer)].experts, parts = down ? 1 : 2;
  check_shape(tensor, {experts, parts * info.rows, info.cols});
  check_type(tensor);
  const int64_t run = info.expert * parts + (info.part == Part::kUp ? 1 : 0);
  Weight view(nullptr, tensor.type, info.rows, info.cols);
  view.data = tensor.bytes.data() + static_cast<size_t>(run) * view.bytes();
  return io::is_aligned(tensor) ? view : copy_of(view, view.type, owned_);
}

// [E,D,2F], gate and up columns in turn, or [E,F,D].
Weight Loader::transposed(const Tensor& tensor, const TensorInfo& info) {
  const bool down = info.part == Part::kDown;
  const int64_t experts = config_.layers[static_cast<size_t>(info.layer)].experts, parts = down ? 1 : 2;
  check_shape(tensor, {experts, info.cols, parts * info.rows});
  check_type(tensor);
  Weight weight(nullptr, tensor.type, info.rows, info.cols);
  std::byte* to = room(weight.bytes(), owned_);
  weight.data = to;
  const size_t size = tensor::size_of(tensor.type), line = static_cast<size_t>(parts * info.rows) * size;
  const std::byte* from = tensor.bytes.data() +
                          static_cast<size_t>(info.expert) * static_cast<size_t>(info.cols) * line +
                          (info.part == Part::kUp ? size : 0);
  for (int r = 0; r < info.rows; ++r)
    for (int c = 0; c < info.cols; ++c, to += size)
      std::memcpy(to, from + static_cast<size_t>(c) * line + static_cast<size_t>(r * parts) * size, size);
  return weight;
}

// MXFP4: [E,2F,D/32,16] pairs of numbers with [E,2F,D/32] scales, gate and up rows in turn; or D and F the other way
// round. Rows become blocks of the scale and its numbers, which products read as they lie.
Weight Loader::from_blocks(const Tensor& blocks, const Tensor& scales, const TensorInfo& info) {
  const bool down = info.part == Part::kDown;
  const int64_t experts = config_.layers[static_cast<size_t>(info.layer)].experts, parts = down ? 1 : 2;
  if (info.cols % 32 != 0)
    base::input_error(fmt::format("tensor {} has rows of {} numbers", blocks.name, info.cols), where_,
                      "MXFP4 needs whole blocks of 32");
  const int64_t each = info.cols / 32;
  check_shape(blocks, {experts, parts * info.rows, each, 16});
  check_shape(scales, {experts, parts * info.rows, each});
  for (const Tensor* tensor : {&blocks, &scales})
    if (tensor->type != DType::kU8)
      base::input_error(fmt::format("tensor {} is {}", tensor->name, tensor::name_of(tensor->type)), where_,
                        "MXFP4 is stored as U8");
  Weight packed(nullptr, DType::kMXFP4, info.rows, info.cols);
  std::byte* to = room(packed.bytes(), owned_);
  packed.data = to;
  const size_t row = packed.bytes() / static_cast<size_t>(info.rows);
  for (int r = 0; r < info.rows; ++r) {
    const int64_t from = (info.expert * static_cast<int64_t>(info.rows) + r) * parts + (info.part == Part::kUp ? 1 : 0);
    tensor::join_mxfp4(blocks.bytes.subspan(static_cast<size_t>(from * each) * 16, static_cast<size_t>(each) * 16),
                       scales.bytes.subspan(static_cast<size_t>(from * each), static_cast<size_t>(each)),
                       {to + static_cast<size_t>(r) * row, row});
  }
  return packed;
}

// [E,2F], in the order of the weights, or [E,D].
Weight Loader::bias(const Tensor& tensor, const TensorInfo& info) {
  const bool down = info.part == Part::kDown;
  const int64_t experts = config_.layers[static_cast<size_t>(info.layer)].experts, parts = down ? 1 : 2;
  check_shape(tensor, {experts, parts * info.cols});
  check_type(tensor);
  std::vector<float> all(tensor.elements());
  tensor::widen({tensor.bytes.data(), tensor.type, 1, static_cast<int>(all.size())}, all);
  Weight weight(nullptr, DType::kF32, 1, info.cols);
  auto* to = reinterpret_cast<float*>(room(weight.bytes(), owned_));
  weight.data = to;
  const bool turns = names_.stacked.interleaved && !down;
  const size_t first = static_cast<size_t>(info.expert * parts * info.cols), step = turns ? 2 : 1,
               begin = first + (info.part != Part::kUp ? 0
                                : turns                ? 1
                                                       : static_cast<size_t>(info.cols));
  for (size_t i = 0; i < weight.size(); ++i) to[i] = all[begin + i * step];
  return weight;
}

std::string Loader::reason_to_pass(const std::string& name) const {
  if (name.ends_with("rotary_emb.inv_freq")) return "rotary frequencies, which follow from the configuration";
  if (config_.tied && name == kHeadName) return "the head of a tied model is its embedding";
  if (layer_of(name) >= config_.depth()) return "of a layer that predicts further tokens in training";
  return {};
}

std::vector<std::string> Loader::check_rest() const {
  std::vector<std::string> passed;
  for (const Tensor& tensor : files_.tensors()) {
    if (used_.contains(tensor.name)) continue;
    const std::string reason = reason_to_pass(tensor.name);
    if (reason.empty())
      base::input_error("unknown tensor: " + tensor.name, where_, "config.json describes a model without it");
    passed.push_back(tensor.name + ": " + reason);
  }
  return passed;
}

}  // namespace choir::model
