#include "model/training_head.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "kernels/soft_cross_entropy.h"
#include "kernels/work.h"
#include "nn/linear.h"

namespace choir::model {
namespace {

// Rows [first, first + logits.rows) of the batch.
struct Part {
  Matrix<float> logits;
  std::span<const int32_t> targets;
  std::span<float> loss, log_sum, soft_loss;
  kernels::SoftSums soft_sums;

  Part(const HeadRoom& room, std::span<const int32_t> all, int first, int rows, int vocab)
      : logits(room.logits.matrix(rows, vocab)),
        targets(all.subspan(static_cast<size_t>(first), static_cast<size_t>(rows))),
        loss(of(room.loss)),
        log_sum(of(room.log_sum)),
        soft_loss(of(room.soft_loss)),
        soft_sums{of(room.soft_log_sum), of(room.teacher_log_sum)} {}

 private:
  std::span<float> of(const Buffer<float>& room) const { return room.span().first(targets.size()); }
};

void prepare(int rows, int vocab, HeadRoom& room) {
  const auto count = static_cast<size_t>(rows);
  room.logits.reserve(count * static_cast<size_t>(vocab));
  for (Buffer<float>* buffer : {&room.loss, &room.log_sum, &room.soft_loss, &room.soft_log_sum, &room.teacher_log_sum})
    buffer->reserve(count);
}

// In the order of the rows, whatever the parts.
double added(double sum, std::span<const float> loss) {
  for (const float of_token : loss) sum += static_cast<double>(of_token);
  return sum;
}

// Adds the losses' sums; the logits become scale times the gradient of the losses.
void differentiate(const Part& part, const Teaching& teaching, int first, float scale, TrainingLoss& sums,
                   Threads& threads) {
  // The teacher's head is an operator of its own.
  const Matrix<const float> taught = teaching.logits ? teaching.logits(first, part.logits.rows) : Matrix<const float>();
  const base::Operator op(threads, "loss", kernels::moved, part.logits.rows, part.logits.cols, 3);
  kernels::cross_entropy_forward(part.logits, part.targets, part.loss, part.log_sum, threads);
  sums.cross_entropy = added(sums.cross_entropy, part.loss);
  if (!teaching.logits) {
    kernels::cross_entropy_backward(part.logits, part.targets, part.log_sum, scale, threads);
    return;
  }
  const kernels::SoftTargets soft{taught, part.targets, teaching.temperature};
  kernels::soft_cross_entropy_forward(part.logits, soft, part.soft_loss, part.soft_sums, threads);
  sums.distillation = added(sums.distillation, part.soft_loss);
  kernels::mixed_cross_entropy_backward(part.logits, soft, part.log_sum, part.soft_sums,
                                        {scale * (1 - teaching.weight), scale * teaching.weight}, threads);
}

}  // namespace

TrainingLoss head_losses(const Model& model, const HeadStep& step, const HeadRows& rows,
                         ModelTensors<Matrix<float>>& gradients, Threads& threads) {
  const std::span<const int32_t> targets = step.batch.targets;
  const int n = rows.normed.rows, vocab = model.config().vocab;
  TrainingLoss loss;
  loss.tokens = static_cast<int>(std::ranges::count_if(targets, [](int32_t t) { return t >= 0; }));
  const auto counted = static_cast<float>(std::max(1, loss.tokens));
  const float scale = step.scale / counted / model.config().logit_divisor;
  const kernels::Sums sums = step.pass.sums();
  prepare(std::min(n, kHeadRows), vocab, rows.room);
  for (int first = 0; first < n; first += kHeadRows) {
    const int count = std::min(kHeadRows, n - first);
    const Matrix<const float> normed = rows.normed.slice_rows(first, count);
    const Part part(rows.room, targets, first, count, vocab);
    step.pass.logits(normed, rows.head, part.logits);
    differentiate(part, step.batch.teaching, first, scale, loss, threads);
    const base::Operator op(threads, "head", kernels::product_backward_work, count, model.tensors().head,
                            model.tensors().head_bias);
    nn::linear_backward_weight(part.logits, normed, gradients.head, gradients.head_bias, threads, sums);
    kernels::gemm_backward_input(part.logits, tensor::as_matrix(model.tensors().head),
                                 rows.dnormed.slice_rows(first, count), {kernels::Write::kSet, sums}, threads);
  }
  loss.cross_entropy /= std::max(1, loss.tokens);
  loss.distillation /= std::max(1, loss.tokens);
  return loss;
}

}  // namespace choir::model
