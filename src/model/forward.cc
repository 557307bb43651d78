#include "model/forward.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/work.h"
#include "moe/noise.h"
#include "nn/embedding.h"
#include "nn/norm.h"
#include "nn/residual.h"

namespace choir::model {
namespace {

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

// Nothing is done where a family has no such number.
void multiply(float factor, Matrix<float> m) {
  if (factor == 1) return;
  for (int r = 0; r < m.rows; ++r)
    for (float& v : m.row(r)) v *= factor;
}

void norm_of_head(const Model& model, Matrix<const float> h, Matrix<float> normed, HeadActivations& activations,
                  Threads& threads) {
  const ModelTensors<Weight>& tensors = model.tensors();
  nn::norm_forward({tensors.norm, tensors.norm_bias, static_cast<float>(model.config().norm_epsilon)}, h, normed,
                   activations.norm, threads);
}

struct HeadProduct {
  Matrix<const float> normed;
  Matrix<float> logits;
  kernels::Sums sums;
};

void logits_of(const Model& model, const HeadProduct& product, HeadActivations& activations, Threads& threads) {
  const ModelTensors<Weight>& tensors = model.tensors();
  const base::Operator op(threads, "head", kernels::product_work, product.normed.rows, tensors.head, tensors.head_bias);
  nn::linear_forward(product.normed, {{tensors.head, tensors.head_bias, product.logits}}, activations.blocks, threads,
                     product.sums);
  multiply(1 / model.config().logit_divisor, product.logits);
}

}  // namespace

KvCache::KvCache(const Config& config, int sequences, int capacity)
    : sequences_(sequences),
      capacity_(kernels::in_blocks(capacity)),
      heads_(config.is_latent() ? 1 : config.attention.kv_heads),
      k_width_(config.is_latent() ? config.latent.cached() : config.attention.head_width),
      v_width_(config.is_latent() ? 0 : kernels::in_sixteens(config.attention.values())) {
  for (int l = 0; l < config.depth(); ++l) {
    k_.emplace_back(area(sequences_ * heads_, capacity_) * static_cast<size_t>(k_width_));
    v_.emplace_back(area(sequences_ * heads_, capacity_) * static_cast<size_t>(v_width_));
  }
}

kernels::KeyBlocks KvCache::layer(int l) const {
  const int blocks = capacity_ / kernels::kKeyBlock, rows = sequences_ * heads_ * blocks;
  return {k_[static_cast<size_t>(l)].matrix(rows, k_width_ * kernels::kKeyBlock),
          v_[static_cast<size_t>(l)].matrix(rows, v_width_ * kernels::kKeyBlock), blocks};
}

Matrix<float> KvCache::latent_layer(int l) const {
  return k_[static_cast<size_t>(l)].matrix(sequences_ * capacity_, k_width_);
}

// Whole blocks, of each head.
void KvCache::copy(const KvCache& from, int length) {
  const int positions = kernels::in_blocks(length);
  for (size_t l = 0; l < k_.size(); ++l)
    for (int head = 0; head < sequences_ * heads_; ++head) {
      const auto rows = [&](const Buffer<float>& b, const KvCache& cache, int width) {
        return b.data() + area(head, cache.capacity()) * static_cast<size_t>(width);
      };
      std::copy_n(rows(from.k_[l], from, k_width_), area(positions, k_width_), rows(k_[l], *this, k_width_));
      std::copy_n(rows(from.v_[l], from, v_width_), area(positions, v_width_), rows(v_[l], *this, v_width_));
    }
}

ForwardPass::ForwardPass(const Model& model, const Batch& batch, Threads& threads, const RoutingOptions& routing,
                         PassLists* lists)
    : model_(model), batch_(batch), threads_(threads), routing_(routing) {
  auto& [positions, begins] = lists ? *lists : own_;
  positions.resize(batch.ids.size());
  begins.clear();
  for (size_t i = 0; i < batch.ids.size(); ++i)
    if (batch.ids[i] < 0 || batch.ids[i] >= model.config().vocab)
      base::input_error(fmt::format("token id {} at position {}", batch.ids[i], i), "input ids",
                        fmt::format("the vocabulary has {} tokens", model.config().vocab));
  for (const Sequence& s : batch.sequences) {
    if (s.first + s.count > model.positions())
      base::input_error(fmt::format("a sequence of {} tokens", s.first + s.count), "input",
                        fmt::format("the model takes {} at most", model.positions()));
    begins.push_back(s.row);
    const int most = model.config().rope_switch();
    const bool longer = batch.longer || s.first + s.count > most;
    const int table = most > 0 && longer ? model.positions() : 0;  // where the other one begins
    for (int i = 0; i < s.count; ++i) positions[s.row + i] = table + s.first + i;
  }
  positions_ = positions;
  begins_ = begins;
}

// A training pass has many rows and float weights.
kernels::Sums ForwardPass::sums() const {
  return routing_.balancing == moe::Balancing::kOn ? routing_.training_sums : kernels::Sums::kLanes;
}

nn::AttentionContext ForwardPass::context(int layer) const {
  const Config& config = model_.config();
  return {.shape = config.attention_of(layer),
          .epsilon = static_cast<float>(config.norm_epsilon),
          .rope = model_.rope(),
          .positions = positions_,
          .sequences = batch_.sequences,
          .sums = sums(),
          .pairs = config.pairs,
          .clip = config.clip_qkv,
          .residual = config.residual_multiplier};
}

// The absorbed form gives each row the same bits with a cache and without; the naive one has a backward.
nn::LatentContext ForwardPass::latent_context() const {
  const bool training = routing_.balancing == moe::Balancing::kOn;
  return {.shape = model_.config().latent,
          .epsilon = static_cast<float>(model_.config().norm_epsilon),
          .rope = model_.rope(),
          .pairs = model_.config().pairs,
          .positions = positions_,
          .sequences = batch_.sequences,
          .form = training ? nn::LatentForm::kNaive : nn::LatentForm::kAbsorbed,
          .sums = sums()};
}

void ForwardPass::embed(Matrix<float> h) const {
  const base::Operator op(threads_, "embedding", kernels::moved, h.rows, h.cols, 2);
  nn::embedding_forward(batch_.ids, model_.tensors().embedding, h);
  multiply(model_.config().embedding_multiplier, h);
}

void ForwardPass::attend(int layer, Matrix<const float> h, const KvCache* cache, BlockActivations& activations,
                         Matrix<float> middle) const {
  const BlockTensors<Weight>& block = model_.tensors().blocks[layer];
  if (model_.config().is_latent()) {
    nn::LatentStep step{h, middle, {}};
    if (cache) step.cache = cache->latent_layer(layer);
    nn::latent_attention_forward(latent_context(), block.latent, step, activations.latent, threads_);
  } else {
    nn::AttentionStep step{h, middle, {}};
    if (cache) step.cache = cache->layer(layer);
    nn::attention_layer_forward(context(layer), block.attention, step, activations.attention, threads_);
  }
  activations.normed.reserve(area(h.rows, h.cols));
  nn::norm_forward({block.moe_norm, block.moe_norm_bias, static_cast<float>(model_.config().norm_epsilon)}, middle,
                   activations.normed.matrix(h.rows, h.cols), activations.norm, threads_);
}

moe::MoeStep ForwardPass::routing_step(int layer, const BlockActivations& activations,
                                       Matrix<const float> previous) const {
  const auto l = static_cast<size_t>(layer);
  moe::MoeStep step;
  step.tokens = {.x = activations.normed.matrix(rows(), model_.config().width),
                 .id = batch_.ids,
                 .sequence = begins_,
                 .node = routing_.node,
                 .nodes = routing_.nodes,
                 .padding = {},
                 .previous = previous};
  step.balancing = routing_.balancing;
  step.sums = sums();
  step.rule = routing_.rule;
  step.seed = moe::scramble(routing_.seed, l);  // not a multiple of what draws add from place to place
  if (!routing_.shares.empty()) step.shares = routing_.shares[l];
  return step;
}

void ForwardPass::mix(int layer, Matrix<const float> middle, Matrix<const float> previous,
                      BlockActivations& activations, Matrix<float> h) const {
  moe::MoeStep step = routing_step(layer, activations, previous);
  step.output = h;
  moe::moe_forward(model_.router(layer), model_.tensors().blocks[layer].moe, step, activations.moe, threads_);
  add_routed(middle, h);
}

void ForwardPass::add_shared(int layer, Matrix<const float> x, Matrix<float> middle) const {
  const moe::MoeTensors<Weight>& whole = model_.tensors().blocks[static_cast<size_t>(layer)].moe;
  if (!whole.shared.has()) return;
  moe::MoeTensors<Weight> shared;  // a layer of that alone
  shared.shared = whole.shared;
  shared.activation = whole.activation;
  base::Frame frame(threads_);
  moe::MoeStep step;
  step.tokens.x = x;
  step.output = {frame.list<float>(area(x.rows, x.cols)).data(), x.rows, x.cols};
  moe::MoeActivations activations;
  moe::moe_forward(moe::Router(), shared, step, activations, threads_);
  multiply(model_.config().residual_multiplier, step.output);
  nn::add(step.output, middle, threads_);
}

void ForwardPass::add_routed(Matrix<const float> middle, Matrix<float> h) const {
  multiply(model_.config().residual_multiplier, h);
  nn::add(middle, h, threads_);
}

void ForwardPass::head(Matrix<const float> h, Matrix<float> normed, HeadActivations& activations,
                       Matrix<float> logits) const {
  head_norm(h, normed, activations);
  this->logits(normed, activations, logits);
}

void ForwardPass::head_norm(Matrix<const float> h, Matrix<float> normed, HeadActivations& activations) const {
  norm_of_head(model_, h, normed, activations, threads_);
}

void ForwardPass::logits(Matrix<const float> normed, HeadActivations& activations, Matrix<float> logits) const {
  logits_of(model_, {normed, logits, sums()}, activations, threads_);
}

namespace {

Matrix<const float> run_blocks(const ForwardPass& pass, const Model& model, const Batch& batch,
                               const ForwardOptions& options, Scratch& scratch, Threads& threads) {
  const int n = pass.rows(), d = model.config().width;
  for (Buffer<float>* buffer : {&scratch.h, &scratch.middle}) buffer->reserve(area(n, d));
  const Matrix<float> h = scratch.h.matrix(n, d), middle = scratch.middle.matrix(n, d);
  pass.embed(h);
  for (int l = 0; l < model.config().depth(); ++l) {
    const base::Scope scope(threads, "layer", l);
    pass.attend(l, h, options.cache, scratch.block, middle);
    Matrix<const float> previous;
    if (l > 0 && model.router(l).residual()) {  // one block of buffers serves all layers: the scores change places
      std::swap(scratch.scores, scratch.block.moe.routing.score);
      previous = scratch.scores.matrix(n, model.config().layers[l - 1].routed());
    }
    pass.mix(l, middle, previous, scratch.block, h);
    if (options.observer && !model.config().layers[static_cast<size_t>(l)].dense())
      options.observer(l, scratch.block.moe.routing);
  }
  if (options.rows == Rows::kAll) return h;
  const int count = static_cast<int>(batch.sequences.size());
  scratch.last.reserve(area(count, d));
  const Matrix<float> last = scratch.last.matrix(count, d);
  for (int s = 0; s < last.rows; ++s)
    std::ranges::copy(h.row(batch.sequences[s].row + batch.sequences[s].count - 1), last[s]);
  return last;
}

}  // namespace

void forward(const Model& model, const Batch& batch, const ForwardOptions& options, Scratch& scratch,
             Matrix<float> logits, Threads& threads) {
  const ForwardPass pass(model, batch, threads, options.routing, &scratch.lists);
  const Matrix<const float> stream = run_blocks(pass, model, batch, options, scratch, threads);
  scratch.normed.reserve(area(stream.rows, stream.cols));
  pass.head(stream, scratch.normed.matrix(stream.rows, stream.cols), scratch.head, logits);
}

Matrix<const float> forward_stream(const Model& model, const Batch& batch, const ForwardOptions& options,
                                   Scratch& scratch, Threads& threads) {
  const ForwardPass pass(model, batch, threads, options.routing, &scratch.lists);
  return run_blocks(pass, model, batch, options, scratch, threads);
}

void forward_head(const Model& model, Matrix<const float> stream, Scratch& scratch, Matrix<float> logits,
                  Threads& threads) {
  scratch.normed.reserve(area(stream.rows, stream.cols));
  const Matrix<float> normed = scratch.normed.matrix(stream.rows, stream.cols);
  norm_of_head(model, stream, normed, scratch.head, threads);
  logits_of(model, {normed, logits, kernels::Sums::kLanes}, scratch.head, threads);
}

}  // namespace choir::model
