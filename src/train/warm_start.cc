#include "train/warm_start.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "io/json.h"
#include "io/shard_index.h"

namespace choir::train {
namespace {

using Role = model::TensorInfo::Role;
using tensor::DType;

constexpr const char* kExperts = "block_sparse_moe.experts.";

// Of "model.layers.3.block_sparse_moe.experts.5.w1.weight": "model.layers.3.", 5 and "w1".
struct ExpertName {
  std::string block, matrix;
  int expert;
};

std::optional<ExpertName> expert_name(const std::string& name) {
  const size_t at = name.find(kExperts);
  if (at == std::string::npos) return {};
  const size_t number = at + std::strlen(kExperts), dot = name.find('.', number);
  return ExpertName{name.substr(0, at), name.substr(dot + 1, 2), std::stoi(name.substr(number, dot - number))};
}

// What a model computes with besides its tensors.
struct Trait {
  const char* key;
  double value;
  bool shapes;  // the same numbers in another shape are another thing
};

std::vector<Trait> traits_of(const Config& config) {
  const auto& a = config.attention;
  return {{"num_attention_heads", a.heads * 1.0, true}, {"num_key_value_heads", a.kv_heads * 1.0, true},
          {"head_dim", a.head_width * 1.0, true},       {"rope_theta", config.rope_theta, false},
          {"rms_norm_eps", config.norm_epsilon, false}, {"sliding_window", a.window * 1.0, false}};
}

// The same keys of another family, where its configuration says them.
std::vector<Trait> traits_of(const io::Json& json, const Config& config) {
  std::vector<Trait> said;
  const auto add = [&](const io::Json& object, Trait trait) {
    const auto found = object.find(trait.key);
    if (found == object.end() || !found->is_number()) return;
    trait.value = found->get<double>();
    said.push_back(trait);
  };
  for (const Trait& trait : traits_of(config)) {
    add(json, trait);
    if (const auto rope = json.find("rope_parameters"); rope != json.end() && rope->is_object()) add(*rope, trait);
  }
  const auto window = json.find("use_sliding_window");
  if (window != json.end() && *window == false)
    std::erase_if(said, [](const Trait& t) { return std::string(t.key) == "sliding_window"; });
  return said;
}

// Of "linear > top_k(2) > all > chosen": "linear".
std::string score_of(const Config& config, const model::LayerConfig& layer) {
  const std::string expression = model::router_expression(config, layer);
  return expression.substr(0, expression.find(" > "));
}

class Copier {
 public:
  Copier(const WarmStart& from, const Config& config, Parameters& parameters)
      : from_(from), config_(config), parameters_(parameters), files_(from.directory), rng_(from.seed) {
    const std::string path = from.directory + "/config.json";
    if (!std::filesystem::exists(path)) return;
    const io::Json json = io::read_json(path);
    if (!json.is_object()) return;
    if (json.value("model_type", io::Json()) == "mixtral") source_ = model::parse_config(json, path);
    compare(source_ ? traits_of(*source_) : traits_of(json, config), path);
  }

  std::string run() {
    ModelTensors<Matrix<float>> numbers = parameters_.numbers();
    model::visit_tensors(config_, numbers, [&](const model::TensorInfo& info, Matrix<float>& to) {
      const bool done = expert_name(info.name) ? copy_expert(*expert_name(info.name), to) : copy_same(info, to);
      if (done)
        ++copied_;
      else
        fresh_.push_back(info.name);
    });
    if (copied_ == 0)
      base::input_error("no tensor of the model fits", from_.directory, "its names or shapes are others");
    std::string line = fmt::format("warm start from {}: {} tensors copied", from_.directory, copied_);
    if (repeated_ > 0) line += fmt::format(", {} of them again for further experts", repeated_);
    if (narrow_ > 0) line += fmt::format(", {} into wider ones", narrow_);
    if (drops_head()) line += ", its lm_head left, for the model is tied";
    for (const std::string& key : others_) line += fmt::format(", {} is another", key);
    line += fresh_.empty() ? "; nothing begins anew" : fmt::format("; {} begin anew: ", fresh_.size());
    for (size_t i = 0; i < std::min<size_t>(3, fresh_.size()); ++i) line += (i > 0 ? ", " : "") + fresh_[i];
    return line + (fresh_.size() > 3 ? ", ..." : "");
  }

 private:
  void compare(const std::vector<Trait>& theirs, const std::string& path) {
    const std::vector<Trait> ours = traits_of(config_);
    for (const Trait& trait : theirs) {
      const double value = std::ranges::find(ours, std::string_view(trait.key), &Trait::key)->value;
      if (trait.value == value) continue;
      if (trait.shapes)
        base::input_error(fmt::format("{} is {}, the model's {}", trait.key, trait.value, value), path,
                          "give the model the same: the tensors of the attention follow from it");
      others_.push_back(fmt::format("{} {}", trait.key, trait.value));
    }
  }

  bool drops_head() const {
    const io::Tensor *head = files_.find("lm_head.weight"), *embedding = files_.find("model.embed_tokens.weight");
    return config_.tied && head && !(embedding && std::ranges::equal(head->bytes, embedding->bytes));
  }

  // The numbers of a tensor of the source, widened.
  Buffer<float> widened(const io::Tensor& tensor) const {
    if (tensor.type != DType::kF32 && tensor.type != DType::kBF16 && tensor.type != DType::kF16)
      base::input_error(fmt::format("tensor {} is {}", tensor.name, tensor::name_of(tensor.type)), from_.directory,
                        "weights may be F32, BF16 or F16");
    if (!io::all_finite(tensor))
      base::input_error(fmt::format("tensor {} holds a number that is not finite", tensor.name), from_.directory,
                        "the source is damaged");
    Buffer<std::byte> aligned(tensor.bytes.size());
    std::memcpy(aligned.data(), tensor.bytes.data(), tensor.bytes.size());
    Buffer<float> wide(tensor.elements());
    tensor::widen({aligned.data(), tensor.type, 1, static_cast<int>(tensor.elements())}, wide.span());
    return wide;
  }

  // A gate is known by its experts and its score; the router's own numbers are of the whole expression.
  bool same_router(const model::TensorInfo& info) const {
    if (!source_ || source_->depth() != config_.depth()) return false;
    const auto l = static_cast<size_t>(std::stoi(info.name.substr(std::strlen("model.layers."))));
    const model::LayerConfig &theirs = source_->layers[l], &ours = config_.layers[l];
    const auto experts = [](const model::LayerConfig& c) {
      return std::array{c.experts, c.zero_experts, c.copy_experts, c.constant_experts, c.novice_experts};
    };
    if (experts(theirs) != experts(ours)) return false;
    if (info.role == Role::kGate) return score_of(*source_, theirs) == score_of(config_, ours);
    return model::router_expression(*source_, theirs) == model::router_expression(config_, ours);
  }

  bool copy_same(const model::TensorInfo& info, Matrix<float> to) const {
    const bool router = info.role == Role::kGate || info.role == Role::kState;
    if (router && !same_router(info)) return false;
    const io::Tensor* found = files_.find(info.name);
    if (!found && info.name == "lm_head.weight") found = files_.find("model.embed_tokens.weight");  // a tied source
    std::vector<int64_t> shape{info.rows, info.cols};
    if (info.vector) shape.erase(shape.begin());
    if (!found || found->shape != shape) return false;
    std::ranges::copy(widened(*found).span(), to.data);
    return true;
  }

  int experts_of(const std::string& block) const {
    if (files_.find(block + "mlp.gate_proj.weight")) return 1;
    int count = 0;
    while (files_.find(fmt::format("{}{}{}.w1.weight", block, kExperts, count))) ++count;
    return count;
  }

  // The matrix w1, w2 or w3 of one expert of the source.
  const io::Tensor* find(const std::string& block, int expert, const std::string& matrix) const {
    const char* dense = matrix == "w1" ? "gate_proj" : matrix == "w3" ? "up_proj" : "down_proj";
    if (const io::Tensor* found = files_.find(fmt::format("{}mlp.{}.weight", block, dense))) return found;
    return files_.find(fmt::format("{}{}{}.{}.weight", block, kExperts, expert, matrix));
  }

  // w1 and w3 are (F,D), w2 is (D,F). Where the source is narrower the columns of w2 behind it are zero: the expert
  // answers as it did, and these columns learn first.
  bool copy_expert(const ExpertName& name, Matrix<float> to) {
    const int count = experts_of(name.block), ours = config_.layers[std::stoi(name.block.substr(13))].experts;
    if (count == 0) return false;
    if (count > ours)
      base::input_error(fmt::format("{} has {} experts, the model {}", name.block, count, ours), from_.directory,
                        "prune it first, or train with as many");
    const io::Tensor* found = find(name.block, name.expert % count, name.matrix);
    const bool down = name.matrix == "w2";
    if (!found || found->shape.size() != 2 || found->shape[down ? 0 : 1] != (down ? to.rows : to.cols)) return false;
    const int64_t width = found->shape[down ? 1 : 0], room = down ? to.cols : to.rows;
    if (width > room)
      base::input_error(fmt::format("{} has width {}", found->name, width), from_.directory,
                        fmt::format("the model's experts have {}", room));
    const Buffer<float> wide = widened(*found);
    const Matrix<const float> source =
        wide.matrix(static_cast<int>(found->shape[0]), static_cast<int>(found->shape[1]));
    if (down) std::fill_n(to.data, static_cast<size_t>(to.rows) * static_cast<size_t>(to.cols), 0.0f);
    for (int r = 0; r < source.rows; ++r) std::ranges::copy(source.row(r), to[r]);
    narrow_ += width < room;
    if (name.expert < count) return true;
    ++repeated_;
    add_noise(source, to);
    return true;
  }

  void add_noise(Matrix<const float> source, Matrix<float> to) {
    if (from_.noise <= 0) return;
    double squares = 0;
    for (int r = 0; r < source.rows; ++r)
      for (const float v : source.row(r)) squares += static_cast<double>(v) * static_cast<double>(v);
    const double size = static_cast<double>(source.rows) * source.cols;
    const auto deviation = static_cast<float>(from_.noise * std::sqrt(squares / size));
    for (int r = 0; r < source.rows; ++r)
      for (int c = 0; c < source.cols; ++c) to[r][c] += deviation * rng_.normal();
  }

  const WarmStart& from_;
  const Config& config_;
  Parameters& parameters_;
  io::TensorDirectory files_;
  base::Rng rng_;
  std::optional<Config> source_;  // of a Mixtral source
  int copied_ = 0, repeated_ = 0, narrow_ = 0;
  std::vector<std::string> fresh_, others_;  // tensors that begin anew; what the source computes otherwise
};

}  // namespace

std::string warm_start(const WarmStart& from, const Config& config, Parameters& parameters) {
  return Copier(from, config, parameters).run();
}

}  // namespace choir::train
