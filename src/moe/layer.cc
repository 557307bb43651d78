#include "moe/layer.h"

#include <algorithm>

#include "kernels/grouped_gemm.h"
#include "kernels/swiglu.h"
#include "kernels/weigh_rows.h"
#include "moe/dispatch.h"

namespace choir::moe {
namespace {

int widest(const std::vector<Weight>& w1) {
  int most = 0;
  for (const Weight& w : w1) most = std::max(most, w.rows);
  return most;
}

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

// The edges of the experts with weights; those of idle experts come behind them.
struct Busy {
  kernels::Groups by_token, by_edge;
  int edges, all_edges;

  Busy(const Plan& plan, size_t experts)
      : by_token{std::span(plan.offset).first(experts + 1), plan.token},
        by_edge{by_token.offset, {}},
        edges(plan.offset[experts]),
        all_edges(plan.edges()) {}
};

struct Views {
  Matrix<float> gate, up, hidden;  // (M,F) of the busy edges
  Matrix<float> out;               // (M,D) of all

  Views(const MoeActivations& a, const Busy& busy, int f, int d)
      : gate(a.gate.matrix(busy.edges, f)),
        up(a.up.matrix(busy.edges, f)),
        hidden(a.hidden.matrix(busy.edges, f)),
        out(a.out.matrix(busy.all_edges, d)) {}
};

// Columns past a narrow expert's width are zero, in buffers that earlier calls have used.
void clear_past_width(const Plan& plan, const std::vector<Weight>& w1, Matrix<float> m) {
  for (size_t e = 0; e < w1.size(); ++e)
    for (int i = plan.offset[e]; w1[e].rows < m.cols && i < plan.offset[e + 1]; ++i)
      std::fill(m[i] + w1[e].rows, m[i] + m.cols, 0.0f);
}

// What the experts see of x: x itself, or a copy in `own` that the Plan scales.
Matrix<const float> input_of(const Plan& plan, Matrix<const float> x, Buffer<float>& own) {
  if (plan.input == 1) return x;
  own.reserve(area(x.rows, x.cols));
  const Matrix<float> scaled = own.matrix(x.rows, x.cols);
  for (int t = 0; t < x.rows; ++t)
    for (int d = 0; d < x.cols; ++d) scaled[t][d] = plan.input * x[t][d];
  return scaled;
}

std::vector<Matrix<const float>> matrices(const std::vector<Weight>& weights) {
  std::vector<Matrix<const float>> result;
  for (const Weight& w : weights) result.push_back(tensor::as_matrix(w));
  return result;
}

}  // namespace

void run_experts(const Plan& plan, const MoeTensors<Weight>& weights, Matrix<const float> x,
                 MoeActivations& activations, Threads& threads, kernels::Sums sums) {
  const int f = widest(weights.w1);
  const Busy busy(plan, weights.w1.size());
  const Matrix<const float> input = input_of(plan, x, activations.input);
  for (Buffer<float>* buffer : {&activations.gate, &activations.up, &activations.hidden})
    buffer->reserve(area(busy.edges, f));
  activations.out.reserve(area(busy.all_edges, x.cols));
  const Views a(activations, busy, f, x.cols);
  for (const Matrix<float>& m : {a.gate, a.up}) clear_past_width(plan, weights.w1, m);
  kernels::grouped_forward(busy.by_token, input, weights.w1, a.gate, threads, sums);
  kernels::grouped_forward(busy.by_token, input, weights.w3, a.up, threads, sums);
  kernels::swiglu_forward(a.gate, a.up, a.hidden, threads);
  kernels::grouped_forward(busy.by_edge, a.hidden, weights.w2, a.out, threads, sums);
  idle_forward(plan, weights.idle, input, a.out, threads);
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

// y_t = sum over the chosen experts of g_te w2_e (silu(w1_e x_t) * (w3_e x_t)).
void moe_forward(const Router& router, const MoeTensors<Weight>& weights, const MoeStep& step,
                 MoeActivations& activations, Threads& threads) {
  const Matrix<const float> x = step.tokens.x;
  router.route(context_of(weights, step, threads), step.balancing, activations.routing);
  const Plan& plan = activations.routing.plan;
  const bool training = step.balancing == Balancing::kOn;
  run_experts(plan, weights, x, activations, threads, training ? kernels::Sums::kPacked : kernels::Sums::kLanes);
  combine(plan, activations.out.matrix(plan.edges(), x.cols), Weighting::kByPlan, Into::kSet, step.output, threads);
  router.finish(context_of(weights, step, threads), plan, step.output);
}

void moe_backward(const Router& router, const MoeTensors<Weight>& weights, MoeActivations& activations,
                  const MoeBackward& backward, const MoeTensors<Matrix<float>>& gradients, Threads& threads) {
  const Plan& plan = activations.routing.plan;
  const Matrix<const float> x = input_of(plan, backward.step.tokens.x, activations.input);
  const int f = widest(weights.w1);
  const Busy busy(plan, weights.w1.size());
  const auto& [by_token, by_edge, edges, all_edges] = busy;
  const Views a(activations, busy, f, x.cols);
  backward.dhidden.reserve(area(edges, f));
  const Matrix<float> dhidden = backward.dhidden.matrix(edges, f), drows = a.out;
  clear_past_width(plan, weights.w1, dhidden);
  std::vector<float> dweight(static_cast<size_t>(all_edges));

  gather(plan, backward.doutput, drows, threads);
  router.finish_backward(context_of(weights, backward.step, threads), plan, drows);
  idle_backward({plan, weights.idle, x, gradients.idle}, drows, dweight, threads);
  kernels::grouped_backward_input(by_edge, drows, matrices(weights.w2), dhidden, kernels::Write::kSet, threads);
  // dg_i = <d (g y)_i / g, y> = <W2^T dout, h>: the expert's output is not needed again. Then both factors of the
  // product W2 h take the weight: dh for what lies before, h for the gradient of W2.
  kernels::weigh_rows_backward(plan.weight, dhidden, a.hidden, dweight, threads);
  kernels::grouped_backward_weight(by_edge, drows, a.hidden, gradients.w2, threads);
  kernels::swiglu_backward(dhidden, a.gate, a.up, threads);
  kernels::grouped_backward_weight(by_token, a.gate, x, gradients.w1, threads);
  kernels::grouped_backward_weight(by_token, a.up, x, gradients.w3, threads);
  kernels::grouped_backward_input(by_edge, a.gate, matrices(weights.w1), drows, kernels::Write::kSet, threads);
  kernels::grouped_backward_input(by_edge, a.up, matrices(weights.w3), drows, kernels::Write::kAdd, threads);
  if (plan.input != 1)
    for (int i = 0; i < all_edges; ++i)
      for (float& d : drows.row(i)) d *= plan.input;
  combine(plan, drows, Weighting::kPlain, Into::kAdd, backward.dx, threads);
  router.backward({dweight, backward.balance_scale, backward.dx, gradients.gate, backward.previous, backward.dscore},
                  context_of(weights, backward.step, threads), activations.routing);
}

}  // namespace choir::moe
