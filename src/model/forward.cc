#include "model/forward.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "moe/noise.h"
#include "nn/embedding.h"
#include "nn/residual.h"

namespace choir::model {
namespace {

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

}  // namespace

KvCache::KvCache(const Config& config, int sequences, int capacity)
    : capacity_(capacity),
      rows_(sequences * capacity),
      width_(config.attention.kv_heads * config.attention.head_width) {
  for (int l = 0; l < config.depth(); ++l) {
    k_.emplace_back(area(rows_, width_));
    v_.emplace_back(area(rows_, width_));
  }
}

nn::KeysValues KvCache::layer(int l) const {
  return {k_[static_cast<size_t>(l)].matrix(rows_, width_), v_[static_cast<size_t>(l)].matrix(rows_, width_)};
}

ForwardPass::ForwardPass(const Model& model, const Batch& batch, Threads& threads, const RoutingOptions& routing)
    : model_(model), batch_(batch), threads_(threads), routing_(routing), positions_(batch.ids.size()) {
  for (size_t i = 0; i < batch.ids.size(); ++i)
    if (batch.ids[i] < 0 || batch.ids[i] >= model.config().vocab)
      base::input_error(fmt::format("token id {} at position {}", batch.ids[i], i), "input ids",
                        fmt::format("the vocabulary has {} tokens", model.config().vocab));
  for (const Sequence& s : batch.sequences) {
    if (s.first + s.count > model.positions())
      base::input_error(fmt::format("a sequence of {} tokens", s.first + s.count), "input",
                        fmt::format("the model takes {} at most", model.positions()));
    begins_.push_back(s.row);
    for (int i = 0; i < s.count; ++i) positions_[s.row + i] = s.first + i;
  }
}

// A training pass has many rows and float weights.
kernels::Sums ForwardPass::sums() const {
  return routing_.balancing == moe::Balancing::kOn ? kernels::Sums::kPacked : kernels::Sums::kLanes;
}

nn::AttentionContext ForwardPass::context() const {
  return {model_.config().attention,
          static_cast<float>(model_.config().norm_epsilon),
          model_.rope(),
          positions_,
          batch_.sequences,
          sums()};
}

void ForwardPass::embed(Matrix<float> h) const { nn::embedding_forward(batch_.ids, model_.tensors().embedding, h); }

void ForwardPass::attend(int layer, Matrix<const float> h, const KvCache* cache, BlockActivations& activations,
                         Matrix<float> middle) const {
  const BlockTensors<Weight>& block = model_.tensors().blocks[layer];
  nn::AttentionStep step{h, middle, {}};
  if (cache) step.cache = cache->layer(layer);
  nn::attention_layer_forward(context(), block.attention, step, activations.attention, threads_);
  activations.normed.reserve(area(h.rows, h.cols));
  activations.inverse_rms.reserve(area(h.rows, 1));
  kernels::rms_norm_forward(middle, tensor::as_vector(block.moe_norm), static_cast<float>(model_.config().norm_epsilon),
                            activations.normed.matrix(h.rows, h.cols),
                            activations.inverse_rms.span().first(area(h.rows, 1)), threads_);
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
  nn::add(middle, h, threads_);
}

void ForwardPass::head(Matrix<const float> h, Matrix<float> normed, std::span<float> inverse_rms,
                       Matrix<float> logits) const {
  kernels::rms_norm_forward(h, tensor::as_vector(model_.tensors().norm),
                            static_cast<float>(model_.config().norm_epsilon), normed, inverse_rms, threads_);
  kernels::gemm_forward(normed, model_.tensors().head, logits, threads_, sums());
}

void forward(const Model& model, const Batch& batch, const ForwardOptions& options, Scratch& scratch,
             Matrix<float> logits, Threads& threads) {
  const ForwardPass pass(model, batch, threads, options.routing);
  const int n = pass.rows(), d = model.config().width;
  for (Buffer<float>* buffer : {&scratch.h, &scratch.middle, &scratch.last, &scratch.normed})
    buffer->reserve(area(n, d));
  scratch.inverse_rms.reserve(area(n, 1));
  const Matrix<float> h = scratch.h.matrix(n, d), middle = scratch.middle.matrix(n, d);
  pass.embed(h);
  for (int l = 0; l < model.config().depth(); ++l) {
    pass.attend(l, h, options.cache, scratch.block, middle);
    Matrix<const float> previous;
    if (l > 0 && model.router(l).residual()) {  // one block of buffers serves all layers: the scores change places
      std::swap(scratch.scores, scratch.block.moe.routing.score);
      previous = scratch.scores.matrix(n, model.config().layers[l - 1].routed());
    }
    pass.mix(l, middle, previous, scratch.block, h);
    if (options.observer) options.observer(l, scratch.block.moe.routing);
  }
  Matrix<float> last = h;
  if (options.rows == Rows::kLast) {
    last = scratch.last.matrix(static_cast<int>(batch.sequences.size()), d);
    for (int s = 0; s < last.rows; ++s)
      std::ranges::copy(h.row(batch.sequences[s].row + batch.sequences[s].count - 1), last[s]);
  }
  pass.head(last, scratch.normed.matrix(last.rows, d), scratch.inverse_rms.span().first(area(last.rows, 1)), logits);
}

}  // namespace choir::model
