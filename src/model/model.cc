#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "kernels/packed_gemm.h"
#include "kernels/rope.h"
#include "model/gguf_model.h"
#include "model/packed.h"
#include "model/store.h"

namespace choir::model {
namespace {

using tensor::DType;

template <class Function>
void each_tensor(const Model& model, const Function& function) {
  ModelTensors<Weight> views = model.tensors();
  visit_tensors(model.config(), views, function);
}

const io::Metadata kMetadata{{"format", "pt"}};  // of model.safetensors

constexpr int kMostPositions = 1 << 15;  // bounds the rotary table: 16 MB for heads of width 128

}  // namespace

Model::Model(const std::string& path, Panels panels) : where_(path) {
  if (is_gguf(path)) {
    GgufModel file = open_gguf(path, RowOrder::kFamily);
    config_ = std::move(file.config);
    files_ = std::move(file.tensors);
  } else {
    config_ = read_config(path + "/config.json");
    files_ = std::make_shared<const io::TensorDirectory>(path);
  }
  Loader loader(config_, *files_, path, copies_, panels);
  visit_tensors(config_, tensors_, [&](const TensorInfo& info, Weight& weight) { weight = loader.find(info); });
  if (const Weight head = config_.tied ? loader.tied_head() : Weight(); head.data) tensors_.head = head;
  loader.check_rest();
  finish();
}

Model::Model(Config config, ModelTensors<Weight> tensors) : config_(std::move(config)), tensors_(std::move(tensors)) {
  finish();
}

// The router of layer l against its experts, its numbers and the layer before.
void Model::check_layer(size_t l) const {
  const moe::Router& router = routers_[l];
  const int experts = config_.layers[l].routed();
  const std::string where = "layer " + std::to_string(l);
  if (config_.layers[l].dense()) return;
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
  if (!rope_) make_rope();
}

// Where a text of more than so many tokens has other frequencies, theirs are the second half of the rows.
void Model::make_rope() {
  const int width = config_.rotary_width(), tables = config_.rope_switch() > 0 ? 2 : 1;
  tensor::Buffer<float> table(static_cast<size_t>(tables) * static_cast<size_t>(positions()) *
                              static_cast<size_t>(width));
  const Matrix<float> all = table.matrix(tables * positions(), width);
  for (int i = 0; i < tables; ++i)
    kernels::rope_table(kernels::rope_frequencies(config_.rope, width, i == 0 ? 1 : config_.max_positions),
                        all.slice_rows(i * positions(), positions()));
  rope_ = std::make_shared<const tensor::Buffer<float>>(std::move(table));
}

int Model::positions() const { return std::min(config_.max_positions, kMostPositions); }

Matrix<const float> Model::rope() const {
  return rope_->matrix((config_.rope_switch() > 0 ? 2 : 1) * positions(), config_.rotary_width());
}

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
    const auto list = router(l).tensors(static_cast<int>(from.w1.size()), config_.width);
    for (size_t g = 0; g < from.gate.size(); ++g)
      to.gate[g] = list[g].vector ? result.columns_of(from.gate[g], kept) : result.rows_of(from.gate[g], kept);
    if (from.state.data) to.state = result.columns_of(from.state, kept);
    static_cast<moe::ExpertTensors<Weight>&>(to) = {};
    for (const int e : kept) to.add(from, static_cast<size_t>(e));
  }
  result.finish();
  return result;
}

Model Model::with_mixture(int l, const LayerConfig& layer, moe::MoeTensors<Weight> moe, const Owned& owned) const {
  Model result = *this;
  result.config_.layers[l] = layer;
  result.tensors_.blocks[l].moe = std::move(moe);
  result.copies_.insert(result.copies_.end(), owned.begin(), owned.end());
  const Weight head = result.tensors_.head;
  visit_tensors(result.config_, result.tensors_, [&](const TensorInfo& info, const Weight& weight) {
    if (weight.rows != info.rows || weight.cols != info.cols)
      base::input_error(fmt::format("tensor {} would have shape [{},{}]", info.name, weight.rows, weight.cols), where_,
                        fmt::format("the layer asks for [{},{}]", info.rows, info.cols));
  });
  if (head.packed()) result.tensors_.head = head;  // of a tied model the visit makes it the table of embeddings
  result.finish();
  return result;
}

Model Model::with_router(const std::string& expression) const {
  Model result = *this;
  const moe::Router router = moe::parse_router(expression);
  for (int l = 0; l < config_.depth(); ++l) {
    LayerConfig& layer = result.config_.layers[l];
    if (layer.dense()) continue;
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
    if (layer.dense()) continue;
    layer.skip_beta.reset();
    if (layer.router.empty() && admission == "all") continue;  // the family's own, which skips by a beta alone
    layer.router = moe::with_admission(router(l).expression(), admission);
    result.tensors_.blocks[l].moe.state = result.renewed_state(l, layer.router);
  }
  result.finish();
  return result;
}

void Model::check_finite() const {
  if (packed_) return files_ ? Model(where_, Panels::kStay).check_finite() : void();
  const auto check = [&](const TensorInfo& info, const Weight& weight) {
    io::Tensor numbers = as_stored(info, weight);
    if (weight.layout == tensor::Layout::kPanels)
      numbers.bytes = {numbers.bytes.data(), kernels::packed_bytes(weight.type, weight.rows, weight.cols)};
    if (!io::all_finite(numbers))
      base::input_error("tensor " + info.name + " holds a NaN or an infinity", where_, "the file is damaged");
  };
  each_tensor(*this, check);
  if (config_.tied && tensors_.head.packed()) check({kHeadName, config_.vocab, config_.width, false}, tensors_.head);
}

void Model::refuse_result(const std::string& what) const {
  check_finite();
  base::input_error(what + " are not finite", where_, "its activations overflow on this input");
}

Model Model::savable() const {
  Model result = *this;
  visit_tensors(result.config_, result.tensors_, [&](const TensorInfo&, Weight& weight) {
    if (weight.type == DType::kMXFP4) weight = copy_of(weight, DType::kBF16, result.copies_);
  });
  check_storable(result.config_, result.tensors_, where_);
  result.drop_copies();
  return result;
}

void Model::save(const std::string& directory, const nlohmann::json& base) const {
  const StoredTensors stored = stored_tensors(config_, tensors_, files_.get(), Contents::kNumbers);
  base::write_file(directory + "/config.json", config_json(config_, base).dump(2) + "\n", base::Existing::kRefuse);
  io::write_safetensors(directory + "/model.safetensors", stored.tensors, kMetadata, base::Existing::kRefuse);
}

int64_t Model::file_bytes() const {
  const StoredTensors stored = stored_tensors(config_, tensors_, files_.get(), Contents::kSizes);
  return static_cast<int64_t>(io::safetensors_size(stored.tensors, kMetadata));
}

int64_t bytes_of(const Model& model) {
  int64_t bytes = 0;
  each_tensor(model, [&](const TensorInfo&, const Weight& w) { bytes += static_cast<int64_t>(w.bytes()); });
  return bytes;
}

// A layer's experts answer top_k of their number, of mean width.
int64_t bytes_per_token(const Model& model) {
  int64_t bytes = 0;
  std::vector<int64_t> experts(model.tensors().blocks.size());
  each_tensor(model, [&](const TensorInfo& info, const Weight& w) {
    const bool idle = info.part == TensorInfo::Part::kIdle;
    if (info.expert >= 0)
      experts[static_cast<size_t>(info.layer)] += static_cast<int64_t>(w.bytes());
    else if (info.name != "model.embed_tokens.weight" && info.role != TensorInfo::Role::kState && !idle)
      bytes += static_cast<int64_t>(w.bytes());
  });
  if (model.config().tied) bytes += static_cast<int64_t>(model.tensors().head.bytes());
  for (size_t l = 0; l < experts.size(); ++l) {
    const LayerConfig& layer = model.config().layers[l];
    if (layer.experts > 0) bytes += experts[l] * std::min(layer.top_k, layer.experts) / layer.experts;
  }
  return bytes;
}

}  // namespace choir::model
