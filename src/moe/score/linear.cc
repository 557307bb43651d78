#include "moe/score/linear.h"

#include <cmath>

#include "kernels/gemm.h"
#include "kernels/sigmoid.h"
#include "moe/lengths.h"
#include "moe/logistic.h"
#include "moe/noise.h"

namespace choir::moe {
namespace {

// u_tj of the jitter, for the whole batch.
Matrix<float> jitter_of(const Context& context, float width, base::Frame& frame) {
  const Matrix<const float> x = context.tokens.x;
  const Matrix<float> factor = matrix_in(frame, x.rows, x.cols);
  context.threads.for_each(x.rows, [&](int t) {
    const size_t first = static_cast<size_t>(t) * static_cast<size_t>(x.cols);
    for (int j = 0; j < x.cols; ++j) factor[t][j] = 1 + width * (2 * uniform_at(context.seed, first + j) - 1);
  });
  return factor;
}

void multiply(std::span<float> a, std::span<const float> b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] *= b[i];
}

}  // namespace

void gate_backward(const Context& context, size_t gate, Matrix<const float> dz, const ScoreGradient& gradient) {
  kernels::gemm_backward_input(dz, tensor::as_matrix(context.tensors[gate]), gradient.dx, kernels::Write::kAdd,
                               context.threads);
  kernels::gemm_backward_weight(dz, context.tokens.x, gradient.tensors[gate], context.threads);
}

LinearScore LinearScore::read(Arguments& arguments) {
  LinearScore word;
  if (arguments.flag("sigmoid")) word.select_by = SelectBy::kSigmoid;
  if (arguments.flag("sqrt_softplus")) {
    if (word.selects()) arguments.refuse("sigmoid and sqrt_softplus exclude each other");
    word.select_by = SelectBy::kSqrtSoftplus;
  }
  word.bias = arguments.flag("bias");
  word.residual = arguments.flag("residual");
  word.jitter = static_cast<float>(arguments.number("jitter", 0, 1, 0));
  word.orthogonal = arguments.name("init", {"normal", "orthogonal"}) == "orthogonal";
  return word;
}

std::string LinearScore::text() const {
  const char* by[] = {"", "sigmoid", "sqrt_softplus"};
  return written(kName, {by[static_cast<int>(select_by)], bias ? "bias" : "", residual ? "residual" : "",
                         unless("jitter", jitter, 0), orthogonal ? "init=orthogonal" : ""});
}

std::string LinearScore::misfit(int experts, int width) const {
  if (!orthogonal || experts <= width) return "";
  return "init=orthogonal wants no more experts than channels, of which there are " + std::to_string(width);
}

std::vector<GateTensor> LinearScore::tensors(int experts, int width) const {
  std::vector<GateTensor> result{{"gate.weight", experts, width}};
  result[0].orthogonal = orthogonal;
  if (bias) result.push_back({.name = "gate.bias", .rows = 1, .cols = experts, .deviation = 0, .vector = true});
  if (residual) result.push_back({"gate_residual.weight", experts, experts});
  return result;
}

// z = x w^T, with jitter (x u) w^T, with bias + b, with residual + z' g^T for the scores z' of the layer before.
void LinearScore::forward(const Context& context, Matrix<float> z) const {
  base::Frame frame(context.threads);
  if (jitter > 0 && context.rule == Rule::kTraining) {
    const Matrix<float> x = jitter_of(context, jitter, frame);
    each_token(context, [&](int t) { multiply(x.row(t), context.tokens.x.row(t)); });
    kernels::gemm_forward(x, context.tensors[0], z, context.threads);
  } else {
    kernels::gemm_forward(context.tokens.x, context.tensors[0], z, context.threads);
  }
  if (bias) shift_rows(context, tensor::as_vector(context.tensors[1]), 1, z);
  if (!residual || !context.tokens.previous.data) return;
  const Matrix<float> carried = matrix_in(frame, z.rows, z.cols);
  kernels::gemm_forward(context.tokens.previous, context.tensors.back(), carried, context.threads);
  each_token(context, [&](int t) {
    for (int e = 0; e < z.cols; ++e) z[t][e] += carried[t][e];
  });
}

// dx += dz w, dw += dz^T x; with jitter x u stands for x, and dx takes u too. db += sum_t dz_t. dz' += dz g, dg += dz^T
// z'.
void LinearScore::backward(const Context& context, const Routing&, Matrix<const float> dz,
                           const ScoreGradient& gradient) const {
  const Matrix<const float> x = context.tokens.x;
  if (jitter > 0 && context.rule == Rule::kTraining) {
    base::Frame frame(context.threads);
    const Matrix<float> u = jitter_of(context, jitter, frame), d = matrix_in(frame, x.rows, x.cols);
    kernels::gemm_backward_input(dz, tensor::as_matrix(context.tensors[0]), d, kernels::Write::kSet, context.threads);
    each_token(context, [&](int t) {
      multiply(d.row(t), u.row(t));
      for (int j = 0; j < x.cols; ++j) gradient.dx[t][j] += d[t][j];
      multiply(u.row(t), x.row(t));
    });
    kernels::gemm_backward_weight(dz, u, gradient.tensors[0], context.threads);
  } else {
    gate_backward(context, 0, dz, gradient);
  }
  for (int t = 0; bias && t < dz.rows; ++t)
    for (int e = 0; e < dz.cols; ++e) gradient.tensors[1][0][e] += dz[t][e];
  if (!residual || !context.tokens.previous.data) return;
  kernels::gemm_backward_input(dz, tensor::as_matrix(context.tensors.back()), gradient.previous, kernels::Write::kAdd,
                               context.threads);
  kernels::gemm_backward_weight(dz, context.tokens.previous, gradient.tensors.back(), context.threads);
}

std::span<const float> LinearScore::inverse_lengths(const Context& context, base::Frame& frame) const {
  return moe::inverse_lengths(context.tensors[0], frame, context.threads);
}

// DeepSeek-V3 adds its bias to sigmoid(z), its successor to sqrt(log(1 + e^z)).
void LinearScore::select(const Context& context, Matrix<const float> z, Matrix<float> key) const {
  if (select_by == SelectBy::kSigmoid) kernels::sigmoid_forward(z, key, context.threads);
  each_token(context, [&](int t) {
    for (int e = 0; e < z.cols; ++e) {
      if (select_by == SelectBy::kSqrtSoftplus) key[t][e] = sqrt_softplus(z[t][e]);
      if (z[t][e] == -HUGE_VALF) key[t][e] = -HUGE_VALF;  // a masked expert stays masked
    }
  });
}

}  // namespace choir::moe
