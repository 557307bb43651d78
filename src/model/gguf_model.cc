#include "model/gguf_model.h"

#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "io/json.h"
#include "model/gguf_config.h"
#include "tensor/buffer.h"

namespace choir::model {
namespace {

using io::Tensor;
using tensor::DType;
using Block = tensor::Buffer<std::byte>;

constexpr const char* kOther = "the file does not hold the model that its keys describe";

std::vector<int64_t> shape_of(const TensorInfo& info) {
  if (info.vector) return {info.cols};
  return {info.rows, info.cols};
}

// Dimensions of one mean nothing.
std::vector<int64_t> squeezed(std::vector<int64_t> shape) {
  std::erase(shape, 1);
  return shape;
}

// Names every tensor of the model in the file.
class Directory {
 public:
  Directory(const io::GgufFile& file, const Config& config, RowOrder order)
      : file_(file), config_(config), architecture_(*architecture_of(config.family)), order_(order) {}

  void add(const TensorInfo& info) {
    const GgufPlace place = place_in_gguf(config_, architecture_, info);
    const bool latent = place.name.ends_with(".attn_kv_b.weight") && !file_.find(place.name);
    Tensor tensor = latent ? kv_b(place.name, info) : view(place, info);
    if (place.head_width > 0 && order_ == RowOrder::kFamily) tensor.bytes = in_family_order(tensor, place.head_width);
    tensors_.push_back(std::move(tensor));
  }

  std::vector<std::string> ignored() const {
    std::vector<std::string> result;
    for (const Tensor& t : file_.tensors()) {
      if (used_.contains(t.name)) continue;
      const std::string reason = reason_to_ignore(t.name);
      if (reason.empty()) base::input_error("unknown tensor: " + t.name, file_.path(), kOther);
      result.push_back(t.name + ": " + reason);
    }
    return result;
  }

  std::shared_ptr<const io::TensorDirectory> take() {
    return std::make_shared<const io::TensorDirectory>(std::move(tensors_), file_.files(), std::move(memory_));
  }

 private:
  const Tensor* look_up(const std::string& name) {
    const Tensor* found = file_.find(name);
    if (found) used_.insert(found->name);
    return found;
  }

  Tensor view(const GgufPlace& place, const TensorInfo& info) {
    const Tensor* found = look_up(place.name);
    if (!found && place.slice >= 0) found = look_up(name_alone(place));
    const bool stacked = found && place.slice >= 0 && found->name == place.name;
    if (!found) base::input_error("tensor missing: " + place.name, file_.path(), kOther);
    std::vector<int64_t> wanted = shape_of(info);
    if (stacked) wanted.insert(wanted.begin(), config_.layers[static_cast<size_t>(info.layer)].experts);
    if (squeezed(found->shape) != squeezed(wanted))
      base::input_error(fmt::format("tensor {} has another shape than [{}]", found->name, fmt::join(wanted, ",")),
                        file_.path(), kOther);
    Tensor result{info.name, found->type, shape_of(info), found->bytes};
    if (!stacked) return result;
    const size_t slice = found->bytes.size() / static_cast<size_t>(wanted.front());
    result.bytes = found->bytes.subspan(slice * static_cast<size_t>(place.slice), slice);
    return result;
  }

  // Files of 2023 have a tensor for each expert: blk.0.ffn_gate_exps.weight is blk.0.ffn_gate.3.weight.
  static std::string name_alone(const GgufPlace& place) {
    constexpr std::string_view kStacked = "_exps.";
    std::string name = place.name;
    const size_t at = name.find(kStacked);
    return name.replace(at, kStacked.size(), fmt::format(".{}.", place.slice));
  }

  std::byte* room(size_t bytes) {
    Block block(bytes);
    std::byte* data = block.data();
    memory_.push_back(std::make_shared<const Block>(std::move(block)));
    return data;
  }

  std::span<const std::byte> in_family_order(const Tensor& tensor, int head_width) {
    const auto rows = static_cast<size_t>(tensor.shape.front());
    const size_t row = tensor.bytes.size() / rows;
    std::byte* to = room(tensor.bytes.size());
    for (size_t r = 0; r < rows; ++r) {
      const auto from = static_cast<size_t>(row_of_halves(static_cast<int64_t>(r), head_width));
      std::memcpy(to + r * row, tensor.bytes.data() + from * row, row);
    }
    return {to, tensor.bytes.size()};
  }

  std::vector<float> floats_of(const std::string& name, const std::vector<int64_t>& shape) {
    const Tensor* found = look_up(name);
    if (!found || found->shape != shape)
      base::input_error(fmt::format("no tensor {} of shape [{}]", name, fmt::join(shape, ",")), file_.path(), kOther);
    std::vector<float> numbers(found->elements());
    const auto rows = static_cast<int>(shape[0] * shape[1]);
    tensor::widen({found->bytes.data(), found->type, rows, static_cast<int>(shape[2])}, numbers);
    return numbers;
  }

  // Of each head first the map to its key, in the file [R, nope] and thus transposed, then the map to its value.
  Tensor kv_b(const std::string& name, const TensorInfo& info) {
    const nn::LatentShape& s = config_.latent;
    std::string key = name, value = name;
    key.replace(key.find("kv_b"), 4, "k_b");
    value.replace(value.find("kv_b"), 4, "v_b");
    const std::vector<float> k = floats_of(key, {s.heads, s.kv_rank, s.nope}),
                             v = floats_of(value, {s.heads, s.value, s.kv_rank});
    const size_t size = static_cast<size_t>(info.rows) * static_cast<size_t>(info.cols) * sizeof(float);
    auto* to = reinterpret_cast<float*>(room(size));
    const std::span<const std::byte> bytes{reinterpret_cast<const std::byte*>(to), size};
    for (int h = 0; h < s.heads; ++h) {
      const auto head = static_cast<size_t>(h * s.kv_rank * s.nope);
      for (int i = 0; i < s.nope; ++i)
        for (int r = 0; r < s.kv_rank; ++r) *to++ = k[head + static_cast<size_t>(r * s.nope + i)];
      const float* from = v.data() + static_cast<ptrdiff_t>(h) * s.value * s.kv_rank;
      to = std::copy_n(from, static_cast<ptrdiff_t>(s.value) * s.kv_rank, to);
    }
    return {info.name, DType::kF32, shape_of(info), bytes};
  }

  std::string reason_to_ignore(const std::string& name) const {
    if (name.starts_with("rope_f")) return "factors of the rotary frequencies, which are part of the description";
    int layer = -1;
    if (std::sscanf(name.c_str(), "blk.%d.", &layer) == 1 && layer >= config_.depth())
      return "of a layer that predicts further tokens in training";
    if (name == "output.weight" && config_.tied) return "the head is the embedding";
    return {};
  }

  const io::GgufFile& file_;
  const Config& config_;
  const Architecture& architecture_;
  RowOrder order_;
  std::vector<Tensor> tensors_;
  std::vector<std::shared_ptr<const Block>> memory_;
  std::unordered_set<std::string> used_;
};

}  // namespace

bool is_gguf(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

GgufModel open_gguf(const std::string& path, RowOrder order) {
  GgufModel model;
  model.file = std::make_shared<const io::GgufFile>(path);
  model.config = parse_config(config_of_gguf(*model.file), path);
  Directory directory(*model.file, model.config, order);
  ModelTensors<Weight> places;
  visit_tensors(model.config, places, [&](const TensorInfo& info, Weight&) { directory.add(info); });
  model.ignored = directory.ignored();
  model.tensors = directory.take();
  return model;
}

nlohmann::json config_file_of(const std::string& model) {
  return is_gguf(model) ? config_of_gguf(io::GgufFile(model)) : io::read_json(model + "/config.json");
}

}  // namespace choir::model
