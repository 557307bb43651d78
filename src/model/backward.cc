#include "model/backward.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "kernels/soft_cross_entropy.h"
#include "kernels/work.h"
#include "nn/embedding.h"
#include "nn/linear.h"
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
  for (BlockActivations& block : a.blocks)
    for (Buffer<float>* buffer : {&block.input, &block.middle}) buffer->reserve(area(n, d));
  for (Buffer<float>* buffer : {&a.h, &a.normed, &a.dh, &a.dnormed}) buffer->reserve(area(n, d));
  for (Buffer<float>* buffer : {&a.loss, &a.log_sum, &a.soft_loss, &a.soft_log_sum, &a.teacher_log_sum})
    buffer->reserve(area(n, 1));
  a.logits.reserve(area(n, model.config().vocab));
}

// The scores of the layer before, for a router that reads them.
Matrix<float> scores_before(const Model& model, const std::vector<BlockActivations>& blocks, size_t l) {
  if (l == 0 || !model.router(static_cast<int>(l)).residual()) return {};
  return blocks[l - 1].moe.routing.scores(model.config().layers[l - 1].routed());
}

kernels::SoftTargets soft_targets(const TrainingBatch& batch) {
  return {batch.teaching.logits, batch.targets, batch.teaching.temperature};
}

kernels::SoftSums soft_sums(const TrainingActivations& a, size_t rows) {
  return {a.soft_log_sum.span().first(rows), a.teacher_log_sum.span().first(rows)};
}

double mean_over(int tokens, std::span<const float> loss) {
  double sum = 0;
  for (const float of_token : loss) sum += static_cast<double>(of_token);
  return sum / std::max(1, tokens);
}

TrainingLoss run_forward(const Model& model, const ForwardPass& pass, const TrainingBatch& batch,
                         TrainingActivations& a, Threads& threads) {
  const base::Scope scope(threads, "forward");
  const int n = pass.rows(), d = model.config().width;
  TrainingLoss loss;
  pass.embed(stream(a, 0, n, d));
  for (size_t l = 0; l < a.blocks.size(); ++l) {
    const int layer = static_cast<int>(l);
    const base::Scope layer_scope(threads, "layer", layer);
    const Matrix<float> middle = a.blocks[l].middle.matrix(n, d);
    pass.attend(layer, stream(a, l, n, d), nullptr, a.blocks[l], middle);
    pass.mix(layer, middle, scores_before(model, a.blocks, l), a.blocks[l], stream(a, l + 1, n, d));
    loss.balance += a.blocks[l].moe.routing.balance_loss;
  }
  const auto rows = static_cast<size_t>(n);
  const Matrix<float> logits = a.logits.matrix(n, model.config().vocab);
  pass.head(a.h.matrix(n, d), a.normed.matrix(n, d), a.head, logits);
  const base::Operator op(threads, "loss", kernels::moved, n, logits.cols, 1);
  kernels::cross_entropy_forward(logits, batch.targets, a.loss.span().first(rows), a.log_sum.span().first(rows),
                                 threads);
  loss.tokens = static_cast<int>(std::ranges::count_if(batch.targets, [](int32_t t) { return t >= 0; }));
  loss.cross_entropy = mean_over(loss.tokens, a.loss.span().first(rows));
  if (batch.teaching.logits.data) {
    kernels::soft_cross_entropy_forward(logits, soft_targets(batch), a.soft_loss.span().first(rows), soft_sums(a, rows),
                                        threads);
    loss.distillation = mean_over(loss.tokens, a.soft_loss.span().first(rows));
  }
  return loss;
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

// From the logits to dh, the gradient of the residual stream behind the last block.
void head_backward(const Model& model, const TrainingBatch& batch, float of_loss, TrainingActivations& a,
                   ModelTensors<Matrix<float>>& gradients, Threads& threads) {
  const float scale = of_loss / model.config().logit_divisor;
  const int n = static_cast<int>(batch.targets.size()), d = model.config().width;
  const auto rows = static_cast<size_t>(n);
  const Matrix<float> dlogits = a.logits.matrix(n, model.config().vocab);
  const Matrix<float> dnormed = a.dnormed.matrix(n, d);
  base::Operator op(threads, "loss", kernels::moved, n, dlogits.cols, 2);
  const std::span<const float> log_sum = a.log_sum.span().first(rows);
  if (batch.teaching.logits.data) {
    const kernels::MixedScale mixed{scale * (1 - batch.teaching.weight), scale * batch.teaching.weight};
    kernels::mixed_cross_entropy_backward(dlogits, soft_targets(batch), log_sum, soft_sums(a, rows), mixed, threads);
  } else {
    kernels::cross_entropy_backward(dlogits, batch.targets, log_sum, scale, threads);
  }
  op.next("head", kernels::product_backward_work, n, model.tensors().head, model.tensors().head_bias);
  nn::linear_backward_weight(dlogits, a.normed.matrix(n, d), gradients.head, gradients.head_bias, threads);
  kernels::gemm_backward_input(dlogits, tensor::as_matrix(model.tensors().head), dnormed, kernels::Write::kSet,
                               threads);
  std::ranges::fill(a.dh.span(), 0.0f);
  norm_backward(model, {model.tensors().norm, model.tensors().norm_bias}, {gradients.norm, gradients.norm_bias},
                {dnormed, a.h.matrix(n, d), a.dh.matrix(n, d), a.head.norm}, threads);
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
                                  {block.input.matrix(n, d), dh}, gradients.latent, threads);
  else
    nn::attention_layer_backward(step.pass.context(static_cast<int>(step.layer)), weights.attention, block.attention,
                                 {block.input.matrix(n, d), dh}, gradients.attention, threads);
}

}  // namespace

TrainingLoss forward_backward(const Model& model, const TrainingBatch& batch, const LossScales& scales,
                              TrainingActivations& a, ModelTensors<Matrix<float>>& gradients, Threads& threads) {
  RoutingOptions routing = batch.routing;
  routing.balancing = moe::Balancing::kOn;
  const ForwardPass pass(model, batch.batch, threads, routing);
  prepare(model, pass.rows(), a);
  const TrainingLoss loss = run_forward(model, pass, batch, a, threads);
  const base::Scope scope(threads, "backward");
  head_backward(model, batch, scales.tokens / static_cast<float>(std::max(1, loss.tokens)), a, gradients, threads);
  for (size_t l = a.blocks.size(); l-- > 0;) {
    if (batch.observer) batch.observer(static_cast<int>(l), a.dh.matrix(pass.rows(), model.config().width));
    block_backward(model, {pass, l, scales.balance}, a, gradients.blocks[l], threads);
  }
  for (float& d : a.dh.span()) d *= model.config().embedding_multiplier;
  const base::Operator op(threads, "embedding", kernels::moved, pass.rows(), model.config().width, 3);
  nn::embedding_backward(batch.batch.ids, a.dh.matrix(pass.rows(), model.config().width), gradients.embedding, threads);
  return loss;
}

void observe(const Model& model, const TrainingBatch& batch, const TrainingActivations& a,
             std::span<std::vector<float>> sums, Threads& threads) {
  const ForwardPass pass(model, batch.batch, threads, batch.routing);
  for (size_t l = 0; l < a.blocks.size(); ++l) {
    if (model.config().layers[l].dense()) continue;
    const moe::MoeStep step = pass.routing_step(static_cast<int>(l), a.blocks[l], scores_before(model, a.blocks, l));
    const moe::Context context = moe::context_of(model.tensors().blocks[l].moe, step, threads);
    model.router(static_cast<int>(l)).observe(context, a.blocks[l].moe.routing, sums[l]);
  }
}

}  // namespace choir::model
