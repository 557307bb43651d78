#include "moe/experts.h"

#include <algorithm>

#include "kernels/weigh_rows.h"
#include "kernels/work.h"

namespace choir::moe {
namespace {

size_t area(int rows, int cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

int widest(const std::vector<Weight>& w1) {
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
void clear_past_width(std::span<const int32_t> offset, const std::vector<Weight>& w1, Matrix<float> m) {
  for (size_t e = 0; e < w1.size(); ++e)
    for (int i = offset[e]; w1[e].rows < m.cols && i < offset[e + 1]; ++i)
      std::fill(m[i] + w1[e].rows, m[i] + m.cols, 0.0f);
}

std::vector<Matrix<const float>> matrices(const std::vector<Weight>& weights) {
  std::vector<Matrix<const float>> result;
  for (const Weight& w : weights) result.push_back(tensor::as_matrix(w));
  return result;
}

// Calls body(e, b_e in float) for every expert that has rows and a bias, shared out over the threads.
template <class Body>
void each_bias(std::span<const int32_t> offset, const std::vector<Weight>& bias, Threads& threads, const Body& body) {
  threads.for_each(static_cast<int>(bias.size()), [&](int e) {
    if (!bias[static_cast<size_t>(e)].data || offset[e] == offset[e + 1]) return;
    std::vector<float> b(bias[static_cast<size_t>(e)].size());
    tensor::widen(bias[static_cast<size_t>(e)], b);
    body(e, b);
  });
}

// y_i += b_e for each row i of expert e.
void add_bias(std::span<const int32_t> offset, const std::vector<Weight>& bias, Matrix<float> y, Threads& threads) {
  each_bias(offset, bias, threads, [&](int e, const std::vector<float>& b) {
    for (int i = offset[e]; i < offset[e + 1]; ++i)
      for (size_t c = 0; c < b.size(); ++c) y[i][c] += b[c];
  });
}

// db_e += sum over the rows i of expert e, in order, of weight_i dy_i.
void bias_backward(std::span<const int32_t> offset, Matrix<const float> dy, std::span<const float> weight,
                   const std::vector<Matrix<float>>& dbias, Threads& threads) {
  threads.for_each(static_cast<int>(dbias.size()), [&](int e) {
    const Matrix<float>& db = dbias[static_cast<size_t>(e)];
    for (int i = offset[e]; db.data && i < offset[e + 1]; ++i) {
      const float w = weight.empty() ? 1 : weight[static_cast<size_t>(i)];
      for (int c = 0; c < db.cols; ++c) db[0][c] += w * dy[i][c];
    }
  });
}

// dweight_i += <dy_i, b_e>.
void weigh_bias(std::span<const int32_t> offset, const std::vector<Weight>& bias, Matrix<const float> dy,
                std::span<float> dweight, Threads& threads) {
  each_bias(offset, bias, threads, [&](int e, const std::vector<float>& b) {
    for (int i = offset[e]; i < offset[e + 1]; ++i)
      for (size_t c = 0; c < b.size(); ++c) dweight[static_cast<size_t>(i)] += dy[i][c] * b[c];
  });
}

// Of products with the rows' inputs, forward or backward.
base::Work gate_up_work(std::span<const int32_t> offset, const ExpertTensors<Weight>& weights,
                        kernels::WorkOfExperts& of) {
  base::Work work = of(offset, weights.w1, weights.b1);
  return work += of(offset, weights.w3, weights.b3);
}

}  // namespace

void experts_forward(const ExpertStep& step, const ExpertTensors<Weight>& weights, kernels::Sums sums,
                     ExpertActivations& activations, Matrix<float> out, Threads& threads) {
  const auto offset = step.rows.offset;
  const int f = widest(weights.w1), rows = offset.back();
  for (Buffer<float>* buffer : {&activations.gate, &activations.up, &activations.hidden})
    buffer->reserve(area(rows, f));
  const Views a(activations, rows, f);
  for (const Matrix<float>& m : {a.gate, a.up}) clear_past_width(offset, weights.w1, m);
  base::Operator op(threads, "gate+up", gate_up_work, offset, weights, kernels::grouped_work);
  const kernels::Product in[] = {{weights.w1, a.gate}, {weights.w3, a.up}}, down{weights.w2, out};
  nn::experts_linear_forward(step.rows, step.x, in, activations.blocks, threads, sums);
  add_bias(offset, weights.b1, a.gate, threads);
  add_bias(offset, weights.b3, a.up, threads);
  op.next("activation", kernels::moved, rows, f, 3);
  kernels::swiglu_forward(a.gate, a.up, a.hidden, threads, step.activation);
  op.next("down", kernels::grouped_work, offset, weights.w2, weights.b2);
  nn::experts_linear_forward({offset, {}}, a.hidden, {&down, 1}, activations.blocks, threads, sums);
  add_bias(offset, weights.b2, out, threads);
}

void experts_backward(const ExpertBackward& backward, const ExpertTensors<Weight>& weights,
                      ExpertActivations& activations, const ExpertTensors<Matrix<float>>& gradients, Threads& threads) {
  if (weights.w1.empty()) return;
  const kernels::Groups &by_token = backward.step.rows, by_row{by_token.offset, {}};
  const auto offset = by_token.offset;
  const int f = widest(weights.w1), rows = offset.back();
  const Views a(activations, rows, f);
  backward.dhidden.reserve(area(rows, f));
  const Matrix<float> dhidden = backward.dhidden.matrix(rows, f);
  clear_past_width(offset, weights.w1, dhidden);

  base::Operator op(threads, "down", kernels::grouped_backward_work, offset, weights.w2, weights.b2);
  kernels::grouped_backward_input(by_row, backward.dout, matrices(weights.w2), dhidden, kernels::Write::kSet, threads);
  // dg_i = <d (g y)_i / g, y> = <W2^T dout, h> + <dout, b2>: the expert's output is not needed again. Then both factors
  // of the product W2 h take the weight: dh for what lies before, h for the gradient of W2.
  if (!backward.weight.empty()) {
    kernels::weigh_rows_backward(backward.weight, dhidden, a.hidden, backward.dweight, threads);
    weigh_bias(offset, weights.b2, backward.dout, backward.dweight, threads);
  }
  kernels::grouped_backward_weight(by_row, backward.dout, a.hidden, gradients.w2, threads);
  bias_backward(offset, backward.dout, backward.weight, gradients.b2, threads);
  op.next("activation", kernels::moved, rows, f, 5);
  kernels::swiglu_backward(dhidden, a.gate, a.up, threads, backward.step.activation);
  op.next("gate+up", gate_up_work, offset, weights, kernels::grouped_backward_work);
  kernels::grouped_backward_weight(by_token, a.gate, backward.step.x, gradients.w1, threads);
  kernels::grouped_backward_weight(by_token, a.up, backward.step.x, gradients.w3, threads);
  bias_backward(offset, a.gate, {}, gradients.b1, threads);
  bias_backward(offset, a.up, {}, gradients.b3, threads);
  kernels::grouped_backward_input(by_row, a.gate, matrices(weights.w1), backward.dx, backward.write, threads);
  kernels::grouped_backward_input(by_row, a.up, matrices(weights.w3), backward.dx, kernels::Write::kAdd, threads);
}

}  // namespace choir::moe
