#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "kernels/rope.h"

namespace choir::model {
namespace {

using tensor::DType;

bool computes(DType type) { return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16; }

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ',';
    text += std::to_string(size);
  }
  return text + ']';
}

std::vector<int64_t> shape_of(const TensorInfo& info) {
  if (info.vector) return {info.cols};
  return {info.rows, info.cols};
}

// The tensor as a file holds it.
io::Tensor as_stored(const TensorInfo& info, const Weight& weight) {
  return {info.name, weight.type, shape_of(info), {static_cast<const std::byte*>(weight.data), weight.bytes()}};
}

template <class Function>
void each_tensor(const Model& model, const Function& function) {
  ModelTensors<Weight> views = model.tensors();
  visit_tensors(model.config(), views, function);
}

// A view into the file, checked against what config.json asks for.
Weight find(const io::TensorDirectory& files, const TensorInfo& info, const std::string& where) {
  const io::Tensor* found = files.find(info.name);
  if (!found)
    base::input_error("tensor missing: " + info.name, where, "the files do not hold the model of config.json");
  if (found->shape != shape_of(info))
    base::input_error(fmt::format("tensor {} has shape {}", info.name, shape_text(found->shape)), where,
                      "config.json asks for " + shape_text(shape_of(info)));
  if (!computes(found->type))
    base::input_error(fmt::format("tensor {} is {}", info.name, tensor::name_of(found->type)), where,
                      "weights may be F32, BF16 or F16");
  return {found->bytes.data(), found->type, info.rows, info.cols};
}

bool passed_over(const Config& config, const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight");
}

const io::Metadata kMetadata{{"format", "pt"}};  // of model.safetensors

constexpr int kMostPositions = 1 << 15;  // bounds the rotary table: 16 MB for heads of width 128

}  // namespace

Model::Model(const std::string& directory) : where_(directory), config_(read_config(directory + "/config.json")) {
  files_ = std::make_shared<const io::TensorDirectory>(directory);
  std::unordered_set<std::string> used;
  visit_tensors(config_, tensors_, [&](const TensorInfo& info, Weight& weight) {
    weight = find(*files_, info, directory);
    const bool aligned = io::is_aligned(*files_->find(info.name));
    if (info.vector || !aligned) weight = copy(weight, info.vector ? DType::kF32 : weight.type);
    used.insert(info.name);
  });
  for (const io::Tensor& tensor : files_->tensors())
    if (!used.contains(tensor.name) && !passed_over(config_, tensor.name))
      base::input_error("unknown tensor: " + tensor.name, directory, "config.json describes a model without it");
  finish();
}

Model::Model(Config config, ModelTensors<Weight> tensors) : config_(std::move(config)), tensors_(std::move(tensors)) {
  finish();
}

// The numbers of `weight` in memory of our own, aligned, as they are or widened to float.
Weight Model::copy(const Weight& weight, DType type) {
  Bytes same(weight.bytes());
  std::memcpy(same.data(), weight.data, weight.bytes());
  const Weight aligned(same.data(), weight.type, weight.rows, weight.cols);
  if (type == weight.type) {
    copies_.push_back(std::make_shared<const Bytes>(std::move(same)));
    return {copies_.back()->data(), type, weight.rows, weight.cols};
  }
  CHOIR_CHECK(type == DType::kF32, "copies widen to float alone");
  Bytes wide(weight.size() * sizeof(float));
  tensor::widen(aligned, {reinterpret_cast<float*>(wide.data()), weight.size()});
  copies_.push_back(std::make_shared<const Bytes>(std::move(wide)));
  return {copies_.back()->data(), type, weight.rows, weight.cols};
}

// The router of layer l against its experts, its numbers and the layer before.
void Model::check_layer(size_t l) const {
  const moe::Router& router = routers_[l];
  const int experts = config_.layers[l].routed();
  const std::string where = "layer " + std::to_string(l);
  moe::check_router(router, experts, config_.width, where);
  const Weight& state = tensors_.blocks[l].moe.state;
  if (const int size = router.state_size(experts); (state.data ? state.cols : 0) != size)
    base::input_error(fmt::format("{} numbers of the router", state.data ? state.cols : 0), where,
                      fmt::format("{} has {}", router.expression(), size));
  if (l == 0 || !router.residual()) return;
  if (experts != config_.layers[l - 1].routed())
    base::input_error("a router reads the scores of a layer with another number of experts", where_,
                      "residual gates need layers of equal size");
  if (routers_[l - 1].masks())
    base::input_error("a router reads the scores of a layer with masked experts", where, "prune the experts instead");
}

void Model::finish() {
  routers_.clear();
  for (size_t l = 0; l < config_.layers.size(); ++l) {
    routers_.push_back(moe::parse_router(router_expression(config_, config_.layers[l])));
    check_layer(l);
  }
  if (rope_) return;
  tensor::Buffer<float> table(static_cast<size_t>(positions()) * static_cast<size_t>(config_.attention.head_width));
  kernels::rope_table(static_cast<float>(config_.rope_theta), table.matrix(positions(), config_.attention.head_width));
  rope_ = std::make_shared<const tensor::Buffer<float>>(std::move(table));
}

int Model::positions() const { return std::min(config_.max_positions, kMostPositions); }

Matrix<const float> Model::rope() const { return rope_->matrix(positions(), config_.attention.head_width); }

// Some rows of a gate's tensor, in memory of our own.
Weight Model::rows_of(const Weight& gate, const std::vector<int>& kept) {
  const size_t row = gate.row(0).bytes();
  Bytes bytes(kept.size() * row);
  for (size_t i = 0; i < kept.size(); ++i) {
    std::memcpy(bytes.data() + i * row, gate.row(kept[i]).data, row);
  }
  copies_.push_back(std::make_shared<const Bytes>(std::move(bytes)));
  return {copies_.back()->data(), gate.type, static_cast<int>(kept.size()), gate.cols};
}

// Some numbers of a row of floats, in memory of our own.
Weight Model::columns_of(const Weight& row, const std::vector<int>& kept) {
  CHOIR_CHECK(row.rows == 1 && row.type == DType::kF32, "one row of floats");
  Bytes bytes(kept.size() * sizeof(float));
  const auto* from = static_cast<const float*>(row.data);
  for (size_t i = 0; i < kept.size(); ++i) std::memcpy(bytes.data() + i * sizeof(float), from + kept[i], sizeof(float));
  copies_.push_back(std::make_shared<const Bytes>(std::move(bytes)));
  return {copies_.back()->data(), DType::kF32, 1, static_cast<int>(kept.size())};
}

Model Model::with_layers(const Config& config, const std::vector<std::vector<int>>& keep) const {
  Model result = *this;
  result.config_ = config;
  for (int l = 0; l < config.depth(); ++l) {
    const moe::MoeTensors<Weight>& from = tensors_.blocks[l].moe;
    moe::MoeTensors<Weight>& to = result.tensors_.blocks[l].moe;
    const std::vector<int>& kept = keep[l];
    CHOIR_CHECK(static_cast<int>(kept.size()) == config.layers[l].experts, "kept experts and config differ");
    if (kept.size() == from.w1.size()) continue;
    if (!router(l).subset_rule() || config_.layers[l].idle() > 0)
      base::input_error(fmt::format("the router of layer {} is made for {} experts", l, from.w1.size()), where_,
                        "only linear scores with a weight for each expert by itself can lose some");
    for (size_t g = 0; g < from.gate.size(); ++g) to.gate[g] = result.rows_of(from.gate[g], kept);
    if (from.state.data) to.state = result.columns_of(from.state, kept);
    for (size_t i = 0; i < kept.size(); ++i) {
      to.w1[i] = from.w1[kept[i]];
      to.w2[i] = from.w2[kept[i]];
      to.w3[i] = from.w3[kept[i]];
    }
    for (auto* list : {&to.w1, &to.w2, &to.w3}) list->resize(kept.size());
  }
  result.finish();
  return result;
}

Model Model::with_mixture(int l, const LayerConfig& layer, moe::MoeTensors<Weight> moe, const Owned& owned) const {
  Model result = *this;
  result.config_.layers[l] = layer;
  result.tensors_.blocks[l].moe = std::move(moe);
  result.copies_.insert(result.copies_.end(), owned.begin(), owned.end());
  visit_tensors(result.config_, result.tensors_, [&](const TensorInfo& info, const Weight& weight) {
    if (weight.rows != info.rows || weight.cols != info.cols)
      base::input_error(fmt::format("tensor {} would have shape [{},{}]", info.name, weight.rows, weight.cols), where_,
                        fmt::format("the layer asks for [{},{}]", info.rows, info.cols));
  });
  result.finish();
  return result;
}

Model Model::with_router(const std::string& expression) const {
  Model result = *this;
  const moe::Router router = moe::parse_router(expression);
  for (int l = 0; l < config_.depth(); ++l) {
    LayerConfig& layer = result.config_.layers[l];
    const auto mine = routers_[static_cast<size_t>(l)].tensors(layer.routed(), config_.width),
               asked = router.tensors(layer.routed(), config_.width);
    const auto same = [](const moe::GateTensor& a, const moe::GateTensor& b) {
      return a.name == b.name && a.rows == b.rows && a.cols == b.cols;
    };
    if (!std::ranges::equal(mine, asked, same))
      base::input_error("the router needs another gate than layer " + std::to_string(l) + " has", expression,
                        "keep the score: " + routers_[static_cast<size_t>(l)].expression());
    moe::check_router(router, layer.routed(), config_.width, "layer " + std::to_string(l));
    layer.router = router.expression();
    layer.skip_beta.reset();
    layer.top_k = router.choices(layer.routed());
    Weight& state = result.tensors_.blocks[l].moe.state;
    state = {};
    const auto size = static_cast<size_t>(router.state_size(layer.routed()));
    if (size == 0) continue;
    Bytes numbers(size * sizeof(float));
    router.initial_state(layer.routed(), {reinterpret_cast<float*>(numbers.data()), size});
    result.copies_.push_back(std::make_shared<const Bytes>(std::move(numbers)));
    state = {result.copies_.back()->data(), DType::kF32, 1, static_cast<int>(size)};
  }
  result.finish();
  return result;
}

// The numbers of a router with another admission. Those of the admission come first and begin anew.
Weight Model::renewed_state(int l, const std::string& expression) {
  const Weight old = tensors_.blocks[l].moe.state;
  const int experts = config_.layers[l].routed();
  const moe::Router bare = moe::parse_router(moe::with_admission(expression, "all")),
                    made = moe::parse_router(expression);
  const auto rest = static_cast<size_t>(bare.state_size(experts)), all = static_cast<size_t>(made.state_size(experts));
  if (all == 0 || (old.data && old.size() == all && all == rest)) return all == 0 ? Weight{} : old;
  Bytes numbers(all * sizeof(float));
  auto* to = reinterpret_cast<float*>(numbers.data());
  made.initial_state(experts, {to, all});
  if (rest > 0)
    std::memcpy(to + (all - rest), static_cast<const float*>(old.data) + (old.size() - rest), rest * sizeof(float));
  copies_.push_back(std::make_shared<const Bytes>(std::move(numbers)));
  return {copies_.back()->data(), DType::kF32, 1, static_cast<int>(all)};
}

Model Model::with_admission(const std::string& admission) const {
  Model result = *this;
  for (int l = 0; l < config_.depth(); ++l) {
    LayerConfig& layer = result.config_.layers[l];
    layer.skip_beta.reset();
    if (layer.router.empty() && admission == "all") continue;  // the family's own, which skips by a beta alone
    layer.router = moe::with_admission(router(l).expression(), admission);
    result.tensors_.blocks[l].moe.state = result.renewed_state(l, layer.router);
  }
  result.finish();
  return result;
}

void Model::check_finite() const {
  each_tensor(*this, [&](const TensorInfo& info, const Weight& weight) {
    if (!io::all_finite(as_stored(info, weight)))
      base::input_error("tensor " + info.name + " holds a NaN or an infinity", where_, "the file is damaged");
  });
}

void Model::refuse_result(const std::string& what) const {
  check_finite();
  base::input_error(what + " are not finite", where_, "its activations overflow on this input");
}

// Vectors are widened on loading. One that still is what the file says is written as the file has it.
io::Tensor Model::to_store(const TensorInfo& info, const Weight& weight) const {
  const io::Tensor* found = info.vector && files_ ? files_->find(info.name) : nullptr;
  if (!found || found->shape != shape_of(info)) return as_stored(info, weight);
  Bytes aligned(found->bytes.size());
  std::memcpy(aligned.data(), found->bytes.data(), found->bytes.size());
  std::vector<float> wide(weight.size());
  tensor::widen({aligned.data(), found->type, 1, weight.cols}, wide);
  const bool same = std::memcmp(wide.data(), weight.data, weight.bytes()) == 0;
  return same ? *found : as_stored(info, weight);
}

std::vector<io::Tensor> Model::stored() const {
  std::vector<io::Tensor> tensors;
  each_tensor(*this, [&](const TensorInfo& info, const Weight& weight) { tensors.push_back(to_store(info, weight)); });
  return tensors;
}

void Model::save(const std::string& directory, const nlohmann::json& base) const {
  base::write_file(directory + "/config.json", config_json(config_, base).dump(2) + "\n", base::Existing::kRefuse);
  io::write_safetensors(directory + "/model.safetensors", stored(), kMetadata, base::Existing::kRefuse);
}

int64_t Model::file_bytes() const { return static_cast<int64_t>(io::safetensors_size(stored(), kMetadata)); }

int64_t bytes_of(const Model& model) {
  int64_t bytes = 0;
  each_tensor(model, [&](const TensorInfo&, const Weight& w) { bytes += static_cast<int64_t>(w.bytes()); });
  return bytes;
}

int64_t bytes_per_token(const Model& model) {
  auto bytes = static_cast<int64_t>(model.tensors().head.bytes() + model.tensors().norm.bytes());
  for (int l = 0; l < model.config().depth(); ++l) {
    const BlockTensors<Weight>& block = model.tensors().blocks[l];
    const auto& a = block.attention;
    for (const Weight& w : {a.norm, a.q, a.k, a.v, a.o, block.moe_norm}) bytes += static_cast<int64_t>(w.bytes());
    for (const Weight& w : block.moe.gate) bytes += static_cast<int64_t>(w.bytes());
    int64_t experts = 0;
    for (const auto* list : {&block.moe.w1, &block.moe.w2, &block.moe.w3})
      for (const Weight& w : *list) experts += static_cast<int64_t>(w.bytes());
    const LayerConfig& layer = model.config().layers[l];
    bytes += experts * std::min(layer.top_k, layer.experts) / layer.experts;  // of mean width
  }
  return bytes;
}

}  // namespace choir::model
