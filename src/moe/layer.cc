#include "moe/layer.h"

#include <algorithm>

#include "kernels/work.h"
#include "moe/dispatch.h"
#include "moe/logistic.h"

namespace choir::moe {
namespace {

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

// What the experts see of x: x itself, or a copy in `own` that the Plan scales.
Matrix<const float> input_of(const Plan& plan, Matrix<const float> x, Buffer<float>& own) {
  if (plan.input == 1) return x;
  own.reserve(area(x.rows, x.cols));
  const Matrix<float> scaled = own.matrix(x.rows, x.cols);
  for (int t = 0; t < x.rows; ++t)
    for (int d = 0; d < x.cols; ++d) scaled[t][d] = plan.input * x[t][d];
  return scaled;
}

// The edges of the experts with weights; those of idle experts come behind them.
kernels::Groups busy_edges(const Plan& plan, size_t experts) {
  return {std::span(plan.offset).first(experts + 1), plan.token};
}

// s(gate . x) of each row, where there is a gate.
void weigh_shared(const Weight& gate, Matrix<const float> x, MoeActivations& a, Threads& threads) {
  if (!gate.data) return;
  const base::Operator op(threads, "share", kernels::product_work, x.rows, gate, Weight());
  a.shared_share.reserve(area(x.rows, 1));
  kernels::gemm_forward(x, gate, a.shared_share.matrix(x.rows, 1), threads);
  for (float& share : a.shared_share.span().first(static_cast<size_t>(x.rows))) share = logistic(share);
}

// With share = s(v), v = gate . x: dv = dshare share (1 - share), dx += dv gate, dgate += dv x.
void shared_backward(const MoeTensors<Weight>& weights, MoeActivations& a, const MoeBackward& backward,
                     const FeedForwardTensors<Matrix<float>>& gradients, Threads& threads) {
  const base::Scope scope(threads, "shared expert");
  const Matrix<const float> x = backward.step.tokens.x;
  const int32_t offset[] = {0, x.rows};
  const ExpertStep step{{offset, {}}, x, weights.activation};
  const bool gated = weights.shared.gate.data != nullptr;
  base::Frame frame(threads);
  const std::span<float> dshare = frame.list<float>(gated ? static_cast<size_t>(x.rows) : 0);
  const std::span<const float> share = a.shared_share.span().first(dshare.size());
  experts_backward({step,
                    share,
                    backward.doutput,
                    backward.dx,
                    {kernels::Write::kAdd, backward.step.sums},
                    dshare,
                    backward.dhidden},
                   weights.shared, a.shared, gradients, threads);
  if (!gated) return;
  const base::Operator op(threads, "share", kernels::product_backward_work, x.rows, weights.shared.gate, Weight());
  for (size_t t = 0; t < dshare.size(); ++t) dshare[t] *= share[t] * (1 - share[t]);
  const Matrix<const float> dv(dshare.data(), x.rows, 1);
  kernels::gemm_backward_input(dv, tensor::as_matrix(weights.shared.gate), backward.dx, kernels::Write::kAdd, threads);
  kernels::gemm_backward_weight(dv, x, gradients.gate, threads);
}

}  // namespace

void run_experts(const Plan& plan, const MoeTensors<Weight>& weights, Matrix<const float> x,
                 MoeActivations& activations, Threads& threads, kernels::Sums sums) {
  const Matrix<const float> input = input_of(plan, x, activations.input);
  activations.out.reserve(area(plan.edges(), x.cols));
  const Matrix<float> out = activations.out.matrix(plan.edges(), x.cols);
  experts_forward({busy_edges(plan, weights.w1.size()), input, weights.activation}, weights, sums, activations, out,
                  threads);
  idle_forward(plan, weights.idle, input, out, threads);
}

// y += f(x), or s(gate . x) f(x), f the shared expert and s the logistic function.
void add_shared_expert(const MoeTensors<Weight>& weights, Matrix<const float> x, Matrix<float> y, MoeActivations& a,
                       Threads& threads, kernels::Sums sums) {
  if (!weights.shared.has()) return;
  const base::Scope scope(threads, "shared expert");
  const int32_t offset[] = {0, x.rows};
  a.shared_out.reserve(area(x.rows, x.cols));
  const Matrix<float> out = a.shared_out.matrix(x.rows, x.cols);
  experts_forward({{offset, {}}, x, weights.activation}, weights.shared, sums, a.shared, out, threads);
  const bool gated = weights.shared.gate.data != nullptr;
  weigh_shared(weights.shared.gate, x, a, threads);
  const base::Operator op(threads, "combine", kernels::moved, x.rows, x.cols, 3);
  constexpr int kRows = 32;  // of one piece
  threads.for_each((x.rows + kRows - 1) / kRows, [&](int piece) {
    for (int t = piece * kRows; t < std::min(x.rows, (piece + 1) * kRows); ++t) {
      const float share = gated ? a.shared_share[static_cast<size_t>(t)] : 1;
      for (int d = 0; d < x.cols; ++d) y[t][d] += share * out[t][d];
    }
  });
}

Context context_of(const MoeTensors<Weight>& weights, const MoeStep& step, Threads& threads) {
  std::span<const float> state;
  if (weights.state.data) state = tensor::as_vector(weights.state);
  return {.tokens = step.tokens,
          .experts = weights.experts(),
          .idle = weights.idle.count(),
          .zero = weights.idle.zero,
          .tensors = weights.gate,
          .state = state,
          .shares = step.shares,
          .rule = step.rule,
          .seed = step.seed,
          .threads = threads};
}

// y_t = sum over the chosen experts of g_te f_e(x_t), and the shared expert's.
void moe_forward(const Router& router, const MoeTensors<Weight>& weights, const MoeStep& step,
                 MoeActivations& activations, Threads& threads) {
  const Matrix<const float> x = step.tokens.x;
  router.route(context_of(weights, step, threads), step.balancing, activations.routing);
  const Plan& plan = activations.routing.plan;
  run_experts(plan, weights, x, activations, threads, step.sums);
  combine(plan, activations.out.matrix(plan.edges(), x.cols), Weighting::kByPlan, Into::kSet, step.output, threads);
  router.finish(context_of(weights, step, threads), plan, step.output);
  add_shared_expert(weights, x, step.output, activations, threads, step.sums);
}

void moe_recompute(const MoeTensors<Weight>& weights, const MoeStep& step, MoeActivations& a, Threads& threads) {
  const Matrix<const float> x = step.tokens.x;
  const Plan& plan = a.routing.plan;
  const Matrix<const float> input = input_of(plan, x, a.input);
  a.out.reserve(area(plan.edges(), x.cols));  // for the gradients of the answers
  experts_hidden({busy_edges(plan, weights.w1.size()), input, weights.activation}, weights, step.sums, a, threads);
  if (!weights.shared.has()) return;
  const int32_t offset[] = {0, x.rows};
  experts_hidden({{offset, {}}, x, weights.activation}, weights.shared, step.sums, a.shared, threads);
  weigh_shared(weights.shared.gate, x, a, threads);
}

void moe_backward(const Router& router, const MoeTensors<Weight>& weights, MoeActivations& activations,
                  const MoeBackward& backward, const MoeTensors<Matrix<float>>& gradients, Threads& threads) {
  const Plan& plan = activations.routing.plan;
  const Matrix<const float> x = input_of(plan, backward.step.tokens.x, activations.input);
  const Matrix<float> drows = activations.out.matrix(plan.edges(), x.cols);
  base::Frame frame(threads);
  const std::span<float> dweight = frame.list<float>(static_cast<size_t>(plan.edges()));

  gather(plan, backward.doutput, drows, threads);
  router.finish_backward(context_of(weights, backward.step, threads), plan, drows);
  idle_backward({plan, weights.idle, x, gradients.idle}, drows, dweight, threads);
  const ExpertStep step{busy_edges(plan, weights.w1.size()), x, weights.activation};
  experts_backward(
      {step, plan.weight, drows, drows, {kernels::Write::kSet, backward.step.sums}, dweight, backward.dhidden}, weights,
      activations, gradients, threads);
  if (plan.input != 1)
    for (int i = 0; i < plan.edges(); ++i)
      for (float& d : drows.row(i)) d *= plan.input;
  combine(plan, drows, Weighting::kPlain, Into::kAdd, backward.dx, threads);
  if (weights.shared.has()) shared_backward(weights, activations, backward, gradients.shared, threads);
  router.backward({dweight, backward.balance_scale, backward.dx, gradients.gate, backward.previous, backward.dscore},
                  context_of(weights, backward.step, threads), activations.routing);
}

}  // namespace choir::moe
