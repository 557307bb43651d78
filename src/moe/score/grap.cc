#include "moe/score/grap.h"

#include <algorithm>
#include <cmath>

#include "kernels/block_sums.h"
#include "moe/score/cosine.h"

namespace choir::moe {
namespace {

std::span<const int32_t> bounds_of(const Context& context, base::Frame& frame) {
  return block_bounds(context.experts, context.tokens.x.cols, frame);
}

float inverse_root(float square) { return square > 0 ? 1 / std::sqrt(square) : 0; }

// Lists of one call: block sums (N,E), square lengths [N], and x w where the gate is learnt.
struct Blocks {
  std::span<const int32_t> bound;
  Matrix<float> sums;
  std::span<float> squares, inverse_token, inverse_gate;  // [N], [N] 1 / |x_t|, [E] 1 / |w_e|; 0 where that vanishes

  Blocks(const Context& context, bool learn, base::Frame& frame)
      : bound(bounds_of(context, frame)),
        sums(matrix_in(frame, context.tokens.rows(), context.experts)),
        squares(frame.list<float>(static_cast<size_t>(context.tokens.rows()))),
        inverse_token(frame.list<float>(squares.size())),
        inverse_gate(frame.list<float>(static_cast<size_t>(context.experts))) {
    kernels::block_sums_forward(context.tokens.x, bound, sums, squares, context.threads);
    for (size_t t = 0; t < inverse_token.size(); ++t) inverse_token[t] = inverse_root(squares[t]);
    if (learn)
      weigh(context, frame);
    else
      for (int e = 0; e < context.experts; ++e)
        inverse_gate[e] = inverse_root(static_cast<float>(bound[e + 1] - bound[e]));
  }

 private:
  void weigh(const Context& context, base::Frame& frame) {
    const Matrix<const float> x = context.tokens.x;
    const std::span<const float> w = tensor::as_vector(context.tensors[0]);
    const Matrix<float> xw = matrix_in(frame, x.rows, x.cols);
    each_token(context, [&](int t) {
      for (int j = 0; j < x.cols; ++j) xw[t][j] = x[t][j] * w[static_cast<size_t>(j)];
    });
    kernels::block_sums_forward(xw, bound, sums, frame.list<float>(squares.size()), context.threads);
    for (int e = 0; e < context.experts; ++e) {
      float square = 0;
      for (int j = bound[e]; j < bound[e + 1]; ++j) square += w[static_cast<size_t>(j)] * w[static_cast<size_t>(j)];
      inverse_gate[e] = inverse_root(square);
    }
  }
};

// What passes through the learnt numbers, d (N,E) holding ddelta_te / (|w_e| |x_t|): the first terms of dx_tj and both
// of dw_j. An expert's channels are its own.
void learnt_backward(const Context& context, const Blocks& blocks, Matrix<const float> d,
                     const ScoreGradient& gradient) {
  const Matrix<const float> x = context.tokens.x, sums = blocks.sums;
  const std::span<const float> w = tensor::as_vector(context.tensors[0]);
  const std::span<float> dw = gradient.tensors[0].row(0);
  context.threads.for_each(d.cols, [&](int e) {
    const float inverse = blocks.inverse_gate[static_cast<size_t>(e)];
    double turn = 0;  // sum_t ddelta_te delta_te
    for (int t = 0; t < d.rows; ++t) turn += static_cast<double>(d[t][e] * sums[t][e]);
    const float back = static_cast<float>(turn) * inverse * inverse;
    for (int j = blocks.bound[e]; j < blocks.bound[e + 1]; ++j) dw[j] -= back * w[j];
    for (int t = 0; t < d.rows; ++t)
      for (int j = blocks.bound[e]; j < blocks.bound[e + 1]; ++j) {
        gradient.dx[t][j] += d[t][e] * w[j];
        dw[j] += d[t][e] * x[t][j];
      }
  });
}

}  // namespace

std::span<const int32_t> block_bounds(int experts, int width, base::Frame& frame) {
  const std::span<int32_t> bound = frame.list<int32_t>(static_cast<size_t>(experts) + 1);
  for (int64_t e = 0; e <= experts; ++e) bound[e] = static_cast<int32_t>(e * width / experts);
  return bound;
}

std::string misfit_of_blocks(int experts, int width) {
  return width < experts ? "they share " + std::to_string(width) + " channels, and each needs one of its own" : "";
}

GrapScore GrapScore::read(Arguments& arguments) { return {static_cast<float>(arguments.number("eps", -1e6, 1e6, 0))}; }

std::string GrapScore::text() const { return written(kName, {unless("eps", eps, 0)}); }

// z_te = max(0, sum_{j in block e} x_tj / b_e + eps).
void GrapScore::forward(const Context& context, Matrix<float> z) const {
  base::Frame frame(context.threads);
  const std::span<const int32_t> bound = bounds_of(context, frame);
  const std::span<float> squares = frame.list<float>(static_cast<size_t>(z.rows));
  kernels::block_sums_forward(context.tokens.x, bound, z, squares, context.threads);
  const std::span<float> share = frame.list<float>(static_cast<size_t>(z.cols));
  for (size_t e = 0; e < share.size(); ++e) share[e] = 1 / static_cast<float>(bound[e + 1] - bound[e]);
  each_token(context, [&](int t) {
    for (int e = 0; e < z.cols; ++e) z[t][e] = std::max(0.0f, z[t][e] * share[static_cast<size_t>(e)] + eps);
  });
}

// The gradient passes where the rectifier did: dx_tj += dz_t,e(j) / b_e.
void GrapScore::backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                         const ScoreGradient& gradient) const {
  base::Frame frame(context.threads);
  const std::span<const int32_t> bound = bounds_of(context, frame);
  const Matrix<const float> z = routing.scores(context.experts);
  const Matrix<float> d = matrix_in(frame, dz.rows, dz.cols);
  const std::span<float> dsquares = frame.list<float>(static_cast<size_t>(dz.rows));
  each_token(context, [&](int t) {
    for (int e = 0; e < dz.cols; ++e)
      d[t][e] = z[t][e] > 0 ? dz[t][e] / static_cast<float>(bound[e + 1] - bound[e]) : 0;
  });
  kernels::block_sums_backward({d, dsquares}, context.tokens.x, bound, gradient.dx, context.threads);
}

std::span<const float> GrapScore::inverse_lengths(const Context& context, base::Frame& frame) const {
  const std::span<const int32_t> bound = bounds_of(context, frame);
  const std::span<float> result = frame.list<float>(static_cast<size_t>(context.experts));
  for (size_t e = 0; e < result.size(); ++e) result[e] = std::sqrt(static_cast<float>(bound[e + 1] - bound[e]));
  return result;
}

GrapCosineScore GrapCosineScore::read(Arguments& arguments) {
  GrapCosineScore word;
  word.learn = arguments.flag("learn");
  word.kappa = read_kappa(arguments, kName);
  if (const Phrase* center = arguments.phrase("center"); center && !is_name(*center, "off")) {
    const Phrase alone{"", kName, {*center}};
    word.center =
        is_name(*center, "ema") ? 0.99f : static_cast<float>(Arguments(alone).number("center", 1e-6, 0.999999));
  }
  return word;
}

std::string GrapCosineScore::text() const {
  return written(kName, {learn ? "learn" : "", written_kappa(kappa), unless("center", center, 0)});
}

std::vector<GateTensor> GrapCosineScore::tensors(int experts, int width) const {
  if (!learn) return {};
  return {{"gate.blocks", 1, width, static_cast<float>(experts) / static_cast<float>(width), 0, true}};
}

float GrapCosineScore::scale(int width) const { return scale_of(kappa, width); }

// z_te = kappa (sum_{j in block e} w_j x_tj) / (|w_e| |x_t|); the constant gate has w_j = 1.
void GrapCosineScore::forward(const Context& context, Matrix<float> z) const {
  base::Frame frame(context.threads);
  const Blocks blocks(context, learn, frame);
  const float size = scale(context.tokens.x.cols);
  const Matrix<const float> sums = blocks.sums;
  each_token(context, [&](int t) {
    const float row = size * blocks.inverse_token[static_cast<size_t>(t)];
    for (int e = 0; e < z.cols; ++e) z[t][e] = row * sums[t][e] * blocks.inverse_gate[static_cast<size_t>(e)];
  });
}

// With delta_te the cosine and ddelta = kappa dz:
//   dx_tj += ddelta_t,e(j) w_j / (|w_e| |x_t|) - x_tj / |x_t|^2 sum_e ddelta_te delta_te
//   dw_j  += sum_t ddelta_t,e(j) x_tj / (|w_e| |x_t|) - w_j / |w_e|^2 sum_t ddelta_te delta_te
void GrapCosineScore::backward(const Context& context, const Routing&, Matrix<const float> dz,
                               const ScoreGradient& gradient) const {
  base::Frame frame(context.threads);
  const Blocks blocks(context, learn, frame);
  const Matrix<const float> x = context.tokens.x, sums = blocks.sums;
  const float size = scale(x.cols);
  const Matrix<float> d = matrix_in(frame, dz.rows, dz.cols);
  const std::span<float> pull = frame.list<float>(static_cast<size_t>(dz.rows));
  each_token(context, [&](int t) {
    const float row = size * blocks.inverse_token[static_cast<size_t>(t)];
    float along = 0;
    for (int e = 0; e < dz.cols; ++e) {
      d[t][e] = row * dz[t][e] * blocks.inverse_gate[static_cast<size_t>(e)];
      along += d[t][e] * sums[t][e];
    }
    const float square = blocks.squares[static_cast<size_t>(t)];
    pull[static_cast<size_t>(t)] = square > 0 ? -0.5f * along / square : 0;
  });
  if (!learn) {
    kernels::block_sums_backward({d, pull}, x, blocks.bound, gradient.dx, context.threads);
    return;
  }
  const Matrix<float> nothing = matrix_in(frame, dz.rows, dz.cols);
  kernels::block_sums_backward({nothing, pull}, x, blocks.bound, gradient.dx, context.threads);
  learnt_backward(context, blocks, d, gradient);
}

void GrapCosineScore::shift(const Context& context, Matrix<float> key) const {
  shift_rows(context, context.state.subspan(1), -1, key);
}

// A masked expert has no mean, a row with a NaN says nothing.
void GrapCosineScore::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  const Matrix<const float> z = routing.scores(context.experts);
  for (int t = 0; t < z.rows; ++t) {
    if (!context.tokens.counts(t) || std::ranges::any_of(z.row(t), [](float v) { return std::isnan(v); })) continue;
    sums[0] += 1;
    for (int e = 0; e < z.cols; ++e)
      if (std::isfinite(z[t][e])) sums[static_cast<size_t>(e) + 1] += z[t][e];
  }
}

// The first mean is taken whole, later ones move it by 1 - decay.
void GrapCosineScore::update(std::span<const float> sums, std::span<float> state) const {
  if (sums[0] <= 0) return;
  const float keep = state[0] > 0 ? center : 0;
  for (size_t e = 1; e < state.size(); ++e) state[e] = keep * state[e] + (1 - keep) * sums[e] / sums[0];
  state[0] = 1;
}

}  // namespace choir::moe
