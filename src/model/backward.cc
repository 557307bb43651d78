#include "model/backward.h"

#include <algorithm>
#include <utility>

#include "kernels/work.h"
#include "model/training_head.h"
#include "nn/embedding.h"
#include "nn/norm.h"

namespace choir::model {
namespace {

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

// The residual stream before block l is blocks[l].input, after the last it is h.
Matrix<float> stream(const TrainingActivations& a, size_t l, int rows, int width) {
  return (l < a.blocks.size() ? a.blocks[l].input : a.h).matrix(rows, width);
}

void prepare(const Model& model, int n, TrainingActivations& a) {
  const int d = model.config().width;
  a.blocks.resize(model.config().layers.size());
  a.dscore.resize(a.blocks.size());
  for (BlockActivations& block : a.blocks) block.input.reserve(area(n, d));
  for (Buffer<float>* buffer : {&a.h, &a.normed, &a.dh, &a.dnormed}) buffer->reserve(area(n, d));
}

// The scores of the layer before, for a router that reads them.
Matrix<float> scores_before(const Model& model, const std::vector<BlockActivations>& blocks, size_t l) {
  if (l == 0 || !model.router(static_cast<int>(l)).residual()) return {};
  return blocks[l - 1].moe.routing.scores(model.config().layers[l - 1].routed());
}

// While a block computes, the shared buffers are its own, where it keeps none; its input and its routing stay.
class Borrowed {
 public:
  Borrowed(TrainingActivations& a, size_t l) : a_(a), block_(a.blocks[l]) { exchange(); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { exchange(); }

 private:
  void exchange() {
    if (a_.recompute == Recompute::kNone) return;
    std::swap(block_, a_.shared);
    std::swap(block_.input, a_.shared.input);
    std::swap(block_.moe.routing, a_.shared.moe.routing);
  }

  TrainingActivations& a_;
  BlockActivations& block_;
};

Matrix<float> attend(const ForwardPass& pass, size_t l, Matrix<float> input, BlockActivations& block) {
  block.middle.reserve(area(input.rows, input.cols));
  const Matrix<float> middle = block.middle.matrix(input.rows, input.cols);
  pass.attend(static_cast<int>(l), input, nullptr, block, middle);
  return middle;
}

void observe(const Model& model, const ForwardPass& pass, const TrainingActivations& a, size_t l,
             const TrainingBatch& batch, Threads& threads) {
  if (batch.sums.empty() || model.config().layers[l].dense()) return;
  const int layer = static_cast<int>(l);
  const moe::MoeStep step = pass.routing_step(layer, a.blocks[l], scores_before(model, a.blocks, l));
  model.router(layer).observe(moe::context_of(model.tensors().blocks[l].moe, step, threads), a.blocks[l].moe.routing,
                              batch.sums[l]);
}

// Up to the last block; gives the balance loss.
double run_forward(const Model& model, const ForwardPass& pass, const TrainingBatch& batch, TrainingActivations& a,
                   Threads& threads) {
  const base::Scope scope(threads, "forward");
  const int n = pass.rows(), d = model.config().width;
  double balance = 0;
  pass.embed(stream(a, 0, n, d));
  for (size_t l = 0; l < a.blocks.size(); ++l) {
    const base::Scope layer_scope(threads, "layer", static_cast<int>(l));
    const Borrowed borrowed(a, l);
    const Matrix<float> middle = attend(pass, l, stream(a, l, n, d), a.blocks[l]);
    pass.mix(static_cast<int>(l), middle, scores_before(model, a.blocks, l), a.blocks[l], stream(a, l + 1, n, d));
    observe(model, pass, a, l, batch, threads);
    balance += a.blocks[l].moe.routing.balance_loss;
  }
  return balance;
}

// What the backward of a block reads, from its input and its routing. The last block still has it all.
void recompute(const Model& model, const ForwardPass& pass, size_t l, TrainingActivations& a, Threads& threads) {
  if (a.recompute == Recompute::kNone || l + 1 == a.blocks.size()) return;
  const base::Scope scope(threads, "recompute");
  BlockActivations& block = a.blocks[l];
  attend(pass, l, stream(a, l, pass.rows(), model.config().width), block);
  const moe::MoeStep step = pass.routing_step(static_cast<int>(l), block, scores_before(model, a.blocks, l));
  moe::moe_recompute(model.tensors().blocks[l].moe, step, block.moe, threads);
}

struct NormStep {
  Matrix<const float> dy, x;
  Matrix<float> dx;  // added to
  const nn::NormActivations& activations;
};

template <class T>
struct ScaleBias {
  T scale, bias;
};

void norm_backward(const Model& model, const ScaleBias<Weight>& weights, const ScaleBias<Matrix<float>>& gradients,
                   const NormStep& step, Threads& threads) {
  std::span<float> dbias;
  if (gradients.bias.data) dbias = gradients.bias.row(0);
  nn::norm_backward({weights.scale, weights.bias, static_cast<float>(model.config().norm_epsilon)}, step.dy,
                    {step.x, step.activations, step.dx, gradients.scale.row(0), dbias}, threads);
}

// From the stream behind the last block to the losses of its rows, and to dh, its gradient.
TrainingLoss run_head(const Model& model, const HeadStep& step, TrainingActivations& a,
                      ModelTensors<Matrix<float>>& gradients, Threads& threads) {
  const base::Scope scope(threads, "head and loss");
  const int n = step.pass.rows(), d = model.config().width;
  const Matrix<float> h = a.h.matrix(n, d), normed = a.normed.matrix(n, d), dnormed = a.dnormed.matrix(n, d);
  step.pass.head_norm(h, normed, a.head);
  const TrainingLoss loss = head_losses(model, step, {normed, dnormed, a.head, a.losses}, gradients, threads);
  std::ranges::fill(a.dh.span(), 0.0f);
  norm_backward(model, {model.tensors().norm, model.tensors().norm_bias}, {gradients.norm, gradients.norm_bias},
                {dnormed, h, a.dh.matrix(n, d), a.head.norm}, threads);
  return loss;
}

// What the experts' half adds to the stream is multiplied by the family's number.
Matrix<const float> branch_gradient(const Model& model, Matrix<float> dh, Buffer<float>& own) {
  const float factor = model.config().residual_multiplier;
  if (factor == 1) return dh;
  own.reserve(area(dh.rows, dh.cols));
  const Matrix<float> scaled = own.matrix(dh.rows, dh.cols);
  for (int r = 0; r < dh.rows; ++r)
    for (int c = 0; c < dh.cols; ++c) scaled[r][c] = factor * dh[r][c];
  return scaled;
}

struct BlockStep {
  const ForwardPass& pass;
  size_t layer;
  float balance_scale;
};

void block_backward(const Model& model, const BlockStep& step, TrainingActivations& a,
                    BlockTensors<Matrix<float>>& gradients, Threads& threads) {
  const base::Scope scope(threads, "layer", static_cast<int>(step.layer));
  const int n = step.pass.rows(), d = model.config().width;
  const BlockTensors<Weight>& weights = model.tensors().blocks[step.layer];
  BlockActivations& block = a.blocks[step.layer];
  const Matrix<float> dh = a.dh.matrix(n, d), dnormed = a.dnormed.matrix(n, d);
  std::ranges::fill(a.dnormed.span(), 0.0f);
  const Matrix<float> before = scores_before(model, a.blocks, step.layer);
  if (before.data) {
    a.dscore[step.layer - 1].reserve(area(before.rows, before.cols));
    a.dscore[step.layer - 1].clear();
  }
  const moe::MoeStep forward = step.pass.routing_step(static_cast<int>(step.layer), block, before);
  moe::MoeBackward backward{.step = forward,
                            .doutput = branch_gradient(model, dh, a.dbranch),
                            .dx = dnormed,
                            .balance_scale = step.balance_scale,
                            .dhidden = a.dhidden};
  if (before.data) backward.previous = a.dscore[step.layer - 1].matrix(before.rows, before.cols);
  if (const Buffer<float>& mine = a.dscore[step.layer]; mine.size() > 0)
    backward.dscore = mine.matrix(n, model.config().layers[step.layer].routed());
  moe::moe_backward(model.router(static_cast<int>(step.layer)), weights.moe, block.moe, backward, gradients.moe,
                    threads);
  norm_backward(model, {weights.moe_norm, weights.moe_norm_bias}, {gradients.moe_norm, gradients.moe_norm_bias},
                {dnormed, block.middle.matrix(n, d), dh, block.norm}, threads);
  if (model.config().is_latent())
    nn::latent_attention_backward(step.pass.latent_context(), weights.latent, block.latent,
                                  {block.input.matrix(n, d), dh, a.latent}, gradients.latent, threads);
  else
    nn::attention_layer_backward(step.pass.context(static_cast<int>(step.layer)), weights.attention, block.attention,
                                 {block.input.matrix(n, d), dh, a.attention}, gradients.attention, threads);
}

}  // namespace

TrainingLoss forward_backward(const Model& model, const TrainingBatch& batch, const LossScales& scales,
                              TrainingActivations& a, ModelTensors<Matrix<float>>& gradients, Threads& threads) {
  RoutingOptions routing = batch.routing;
  routing.balancing = moe::Balancing::kOn;
  const ForwardPass pass(model, batch.batch, threads, routing, &a.lists);
  prepare(model, pass.rows(), a);
  const double balance = run_forward(model, pass, batch, a, threads);
  TrainingLoss loss = run_head(model, {pass, batch, scales.tokens}, a, gradients, threads);
  loss.balance = balance;
  const base::Scope scope(threads, "backward");
  for (size_t l = a.blocks.size(); l-- > 0;) {
    if (batch.observer) batch.observer(static_cast<int>(l), a.dh.matrix(pass.rows(), model.config().width));
    const Borrowed borrowed(a, l);
    recompute(model, pass, l, a, threads);
    block_backward(model, {pass, l, scales.balance}, a, gradients.blocks[l], threads);
  }
  for (float& d : a.dh.span()) d *= model.config().embedding_multiplier;
  const base::Operator op(threads, "embedding", kernels::moved, pass.rows(), model.config().width, 3);
  nn::embedding_backward(batch.batch.ids, a.dh.matrix(pass.rows(), model.config().width), gradients.embedding, threads);
  return loss;
}

}  // namespace choir::model
