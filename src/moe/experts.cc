#include "moe/experts.h"

#include <algorithm>

#include "base/arena.h"
#include "kernels/weigh_rows.h"
#include "kernels/work.h"

namespace choir::moe {
namespace {

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

int widest(std::span<const Weight> w1) {
  int most = 0;
  for (const Weight& w : w1) most = std::max(most, w.rows);
  return most;
}

struct Views {
  Matrix<float> gate, up, hidden;  // (M,F)

  Views(const ExpertActivations& a, int rows, int f)
      : gate(a.gate.matrix(rows, f)), up(a.up.matrix(rows, f)), hidden(a.hidden.matrix(rows, f)) {}
};

// Columns past a narrow expert's width are zero, in buffers that earlier calls have used.
void clear_past_width(std::span<const int32_t> offset, std::span<const Weight> w1, Matrix<float> m) {
  for (size_t e = 0; e < w1.size(); ++e)
    for (int i = offset[e]; w1[e].rows < m.cols && i < offset[e + 1]; ++i)
      std::fill(m[i] + w1[e].rows, m[i] + m.cols, 0.0f);
}

std::span<const Matrix<const float>> matrices(std::span<const Weight> weights, base::Frame& frame) {
  const auto result = frame.list<Matrix<const float>>(weights.size());
  std::ranges::transform(weights, result.begin(), tensor::as_matrix);
  return result;
}

// Some columns of a row of numbers that lie one by one.
Weight part_of(const Weight& row, int first, int count) {
  const size_t at = tensor::bytes_of(row.type, static_cast<size_t>(first));
  return {static_cast<const std::byte*>(row.data) + at, row.type, 1, count};
}

// Calls body(e, first column, some numbers b_e from there in float) for every expert that has rows and a bias, shared
// out over the threads.
template <class Body>
void each_bias(std::span<const int32_t> offset, std::span<const Weight> bias, Threads& threads, const Body& body) {
  threads.for_each(static_cast<int>(bias.size()), [&](int e) {
    const Weight& b = bias[static_cast<size_t>(e)];
    if (!b.data || offset[e] == offset[e + 1]) return;
    constexpr int kCols = 512;
    float room[kCols];
    for (int first = 0; first < b.cols; first += kCols) {
      const std::span<float> some(room, static_cast<size_t>(std::min(kCols, b.cols - first)));
      tensor::widen(part_of(b, first, static_cast<int>(some.size())), some);
      body(e, first, some);
    }
  });
}

// y_i += b_e for each row i of expert e.
void add_bias(std::span<const int32_t> offset, std::span<const Weight> bias, Matrix<float> y, Threads& threads) {
  each_bias(offset, bias, threads, [&](int e, int first, std::span<const float> b) {
    for (int i = offset[e]; i < offset[e + 1]; ++i)
      for (size_t c = 0; c < b.size(); ++c) y[i][first + c] += b[c];
  });
}

// db_e += sum over the rows i of expert e, in order, of weight_i dy_i.
void bias_backward(std::span<const int32_t> offset, Matrix<const float> dy, std::span<const float> weight,
                   std::span<const Matrix<float>> dbias, Threads& threads) {
  threads.for_each(static_cast<int>(dbias.size()), [&](int e) {
    const Matrix<float>& db = dbias[static_cast<size_t>(e)];
    for (int i = offset[e]; db.data && i < offset[e + 1]; ++i) {
      const float w = weight.empty() ? 1 : weight[static_cast<size_t>(i)];
      for (int c = 0; c < db.cols; ++c) db[0][c] += w * dy[i][c];
    }
  });
}

// dweight_i += <dy_i, b_e>.
void weigh_bias(std::span<const int32_t> offset, std::span<const Weight> bias, Matrix<const float> dy,
                std::span<float> dweight, Threads& threads) {
  each_bias(offset, bias, threads, [&](int e, int first, std::span<const float> b) {
    for (int i = offset[e]; i < offset[e + 1]; ++i)
      for (size_t c = 0; c < b.size(); ++c) dweight[static_cast<size_t>(i)] += dy[i][first + c] * b[c];
  });
}

// Of products with the rows' inputs, forward or backward.
base::Work gate_up_work(std::span<const int32_t> offset, const ExpertViews<Weight>& weights,
                        kernels::WorkOfExperts& of) {
  base::Work work = of(offset, weights.w1, weights.b1);
  return work += of(offset, weights.w3, weights.b3);
}

}  // namespace

void experts_hidden(const ExpertStep& step, const ExpertViews<Weight>& weights, kernels::Sums sums,
                    ExpertActivations& activations, Threads& threads) {
  const auto offset = step.rows.offset;
  const int f = widest(weights.w1), rows = offset.back();
  for (Buffer<float>* buffer : {&activations.gate, &activations.up, &activations.hidden})
    buffer->reserve(area(rows, f));
  const Views a(activations, rows, f);
  for (const Matrix<float>& m : {a.gate, a.up}) clear_past_width(offset, weights.w1, m);
  base::Operator op(threads, "gate+up", gate_up_work, offset, weights, kernels::grouped_work);
  const kernels::Product in[] = {{weights.w1, a.gate}, {weights.w3, a.up}};
  nn::experts_linear_forward(step.rows, step.x, in, activations.blocks, threads, sums);
  add_bias(offset, weights.b1, a.gate, threads);
  add_bias(offset, weights.b3, a.up, threads);
  op.next("activation", kernels::moved, rows, f, 3);
  kernels::swiglu_forward(a.gate, a.up, a.hidden, threads, step.activation);
}

void experts_forward(const ExpertStep& step, const ExpertViews<Weight>& weights, kernels::Sums sums,
                     ExpertActivations& activations, Matrix<float> out, Threads& threads) {
  experts_hidden(step, weights, sums, activations, threads);
  const auto offset = step.rows.offset;
  const Matrix<float> hidden = activations.hidden.matrix(offset.back(), widest(weights.w1));
  const kernels::Product down{weights.w2, out};
  const base::Operator op(threads, "down", kernels::grouped_work, offset, weights.w2, weights.b2);
  nn::experts_linear_forward({offset, {}}, hidden, {&down, 1}, activations.blocks, threads, sums);
  add_bias(offset, weights.b2, out, threads);
}

void experts_backward(const ExpertBackward& backward, const ExpertViews<Weight>& weights,
                      ExpertActivations& activations, const ExpertViews<Matrix<float>>& gradients, Threads& threads) {
  if (weights.w1.empty()) return;
  const kernels::Groups &by_token = backward.step.rows, by_row{by_token.offset, {}};
  const auto offset = by_token.offset;
  const kernels::Sums sums = backward.target.sums;
  const int f = widest(weights.w1), rows = offset.back();
  const Views a(activations, rows, f);
  backward.dhidden.reserve(area(rows, f));
  const Matrix<float> dhidden = backward.dhidden.matrix(rows, f);
  base::Frame frame(threads);
  clear_past_width(offset, weights.w1, dhidden);

  base::Operator op(threads, "down", kernels::grouped_backward_work, offset, weights.w2, weights.b2);
  kernels::grouped_backward_input(by_row, backward.dout, matrices(weights.w2, frame), dhidden,
                                  {kernels::Write::kSet, sums}, threads);
  // dg_i = <d (g y)_i / g, y> = <W2^T dout, h> + <dout, b2>: the expert's output is not needed again. Then both factors
  // of the product W2 h take the weight: dh for what lies before, h for the gradient of W2.
  if (!backward.weight.empty()) {
    kernels::weigh_rows_backward(backward.weight, dhidden, a.hidden, backward.dweight, threads);
    weigh_bias(offset, weights.b2, backward.dout, backward.dweight, threads);
  }
  kernels::grouped_backward_weight(by_row, backward.dout, a.hidden, gradients.w2, threads, sums);
  bias_backward(offset, backward.dout, backward.weight, gradients.b2, threads);
  op.next("activation", kernels::moved, rows, f, 5);
  kernels::swiglu_backward(dhidden, a.gate, a.up, threads, backward.step.activation);
  op.next("gate+up", gate_up_work, offset, weights, kernels::grouped_backward_work);
  kernels::grouped_backward_weight(by_token, a.gate, backward.step.x, gradients.w1, threads, sums);
  kernels::grouped_backward_weight(by_token, a.up, backward.step.x, gradients.w3, threads, sums);
  bias_backward(offset, a.gate, {}, gradients.b1, threads);
  bias_backward(offset, a.up, {}, gradients.b3, threads);
  kernels::grouped_backward_input(by_row, a.gate, matrices(weights.w1, frame), backward.dx, backward.target, threads);
  kernels::grouped_backward_input(by_row, a.up, matrices(weights.w3, frame), backward.dx, {kernels::Write::kAdd, sums},
                                  threads);
}

}  // namespace choir::moe
