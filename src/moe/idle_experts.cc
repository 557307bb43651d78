#include "moe/idle_experts.h"

#include <algorithm>
#include <cmath>

#include "base/arena.h"
#include "kernels/work.h"

namespace choir::moe {
namespace {

// Edges begin .. end-1.
struct Range {
  int begin, end;
};

// Where the edges of each kind lie; constants and novices are experts of their own.
class Places {
 public:
  template <class T>
  Places(const Plan& plan, const IdleTensors<T>& idle)
      : plan_(plan),
        zero_(plan.experts() - idle.count()),
        copy_(zero_ + idle.zero),
        constant_(copy_ + idle.copy),
        novice_(constant_ + idle.constant()) {}
  int edges() const { return plan_.edges() - plan_.offset[zero_]; }
  Range zeros() const { return {plan_.offset[zero_], plan_.offset[copy_]}; }
  Range copies() const { return {plan_.offset[copy_], plan_.offset[constant_]}; }
  Range constants(int j) const { return of(constant_ + j); }
  Range novices(int j) const { return of(novice_ + j); }

 private:
  Range of(int expert) const { return {plan_.offset[expert], plan_.offset[expert + 1]}; }

  const Plan& plan_;
  int zero_, copy_, constant_, novice_;  // the first expert of each kind
};

template <class Body>
void each_edge(Range range, Threads& threads, const Body& body) {
  constexpr int kRows = 64;  // of one piece
  threads.for_each((range.end - range.begin + kRows - 1) / kRows, [&](int piece) {
    const int first = range.begin + piece * kRows;
    for (int i = first; i < std::min(range.end, first + kRows); ++i) body(i);
  });
}

float dot(const float* a, const float* b, int size) {
  float sum = 0;
  for (int d = 0; d < size; ++d) sum += a[d] * b[d];
  return sum;
}

// A constant expert's numbers in float.
class Constant {
 public:
  Constant(const Weight& v, const Weight& mix, base::Frame& frame)
      : width_(mix.cols), v_(frame.list<float>(v.size())), mix_(frame.list<float>(mix.size())) {
    tensor::widen(v, v_);
    tensor::widen(mix, mix_);
  }
  const float* v() const { return v_.data(); }
  const float* row(int i) const { return mix_.data() + static_cast<ptrdiff_t>(i) * width_; }
  // a_1 of softmax(W_c x); a_2 is the rest.
  float share(const float* x) const { return 1 / (1 + std::exp(dot(row(1), x, width_) - dot(row(0), x, width_))); }

 private:
  int width_;
  std::span<float> v_, mix_;
};

// With a = softmax(W_c x) and g the gate: dg = a_1 <dy,x> + a_2 <dy,v>, dv += g a_2 dy, and for the two logits
// s = g a_1 a_2 (<dy,x> - <dy,v>) and -s: dW_c += (s, -s)^T x, dx = g a_1 dy + s (W_c1 - W_c2).
void constant_backward(const IdleBackward& step, int j, Matrix<float> rows, std::span<float> dweight,
                       Threads& threads) {
  const Plan& plan = step.plan;
  const int width = rows.cols;
  const Range range = Places(plan, step.weights).constants(j);
  base::Frame frame(threads);
  const Constant expert(step.weights.v[static_cast<size_t>(j)], step.weights.mix[static_cast<size_t>(j)], frame);
  const std::span<float> share = frame.list<float>(static_cast<size_t>(range.end - range.begin));
  const std::span<float> push = frame.list<float>(share.size());
  each_edge(range, threads, [&](int i) {
    const float* x = step.x[plan.token[i]];
    const float a = expert.share(x), by_x = dot(rows[i], x, width), by_v = dot(rows[i], expert.v(), width);
    dweight[i] = a * by_x + (1 - a) * by_v;
    share[i - range.begin] = a;
    push[i - range.begin] = plan.weight[i] * a * (1 - a) * (by_x - by_v);
  });
  float* dv = step.gradients.v[static_cast<size_t>(j)][0];
  const Matrix<float> dmix = step.gradients.mix[static_cast<size_t>(j)];
  for (int i = range.begin; i < range.end; ++i) {
    const float* x = step.x[plan.token[i]];
    const float s = push[i - range.begin], pull = plan.weight[i] * (1 - share[i - range.begin]);
    for (int d = 0; d < width; ++d) {
      dv[d] += pull * rows[i][d];
      dmix[0][d] += s * x[d];
      dmix[1][d] -= s * x[d];
    }
  }
  each_edge(range, threads, [&](int i) {
    const float s = push[i - range.begin], keep = plan.weight[i] * share[i - range.begin];
    for (int d = 0; d < width; ++d) rows[i][d] = keep * rows[i][d] + s * (expert.row(0)[d] - expert.row(1)[d]);
  });
}

// dg = <dy,v>, dv += g dy; x has no part in it.
void novice_backward(const IdleBackward& step, size_t j, Matrix<float> rows, std::span<float> dweight,
                     Threads& threads) {
  const Range range = Places(step.plan, step.weights).novices(static_cast<int>(j));
  base::Frame frame(threads);
  const std::span<float> v = frame.list<float>(static_cast<size_t>(rows.cols));
  tensor::widen(step.weights.novice[j], v);
  float* dv = step.gradients.novice[j][0];
  for (int i = range.begin; i < range.end; ++i)
    for (int d = 0; d < rows.cols; ++d) dv[d] += step.plan.weight[i] * rows[i][d];
  each_edge(range, threads, [&](int i) {
    dweight[i] = dot(rows[i], v.data(), rows.cols);
    std::ranges::fill(rows.row(i), 0.0f);
  });
}

}  // namespace

void idle_forward(const Plan& plan, const IdleTensors<Weight>& weights, Matrix<const float> x, Matrix<float> rows,
                  Threads& threads) {
  if (weights.count() == 0) return;
  const Places places(plan, weights);
  const base::Operator op(threads, "idle experts", kernels::moved, places.edges(), x.cols, 2);
  each_edge(places.zeros(), threads, [&](int i) { std::ranges::fill(rows.row(i), 0.0f); });
  each_edge(places.copies(), threads, [&](int i) { std::ranges::copy(x.row(plan.token[i]), rows[i]); });
  for (int j = 0; j < weights.constant(); ++j) {
    base::Frame frame(threads);
    const Constant expert(weights.v[static_cast<size_t>(j)], weights.mix[static_cast<size_t>(j)], frame);
    each_edge(places.constants(j), threads, [&](int i) {
      const float* from = x[plan.token[i]];
      const float a = expert.share(from);
      for (int d = 0; d < x.cols; ++d) rows[i][d] = a * from[d] + (1 - a) * expert.v()[d];
    });
  }
  for (size_t j = 0; j < weights.novice.size(); ++j)
    each_edge(places.novices(static_cast<int>(j)), threads,
              [&](int i) { tensor::widen(weights.novice[j], rows.row(i)); });
}

void idle_backward(const IdleBackward& step, Matrix<float> rows, std::span<float> dweight, Threads& threads) {
  const Plan& plan = step.plan;
  if (step.weights.count() == 0) return;
  const Places places(plan, step.weights);
  const base::Operator op(threads, "idle experts", kernels::moved, places.edges(), rows.cols, 3);
  each_edge(places.zeros(), threads, [&](int i) {
    dweight[i] = 0;
    std::ranges::fill(rows.row(i), 0.0f);
  });
  each_edge(places.copies(), threads, [&](int i) {
    dweight[i] = dot(rows[i], step.x[plan.token[i]], rows.cols);
    for (float& d : rows.row(i)) d *= plan.weight[i];
  });
  for (int j = 0; j < step.weights.constant(); ++j) constant_backward(step, j, rows, dweight, threads);
  for (size_t j = 0; j < step.weights.novice.size(); ++j) novice_backward(step, j, rows, dweight, threads);
}

}  // namespace choir::moe
