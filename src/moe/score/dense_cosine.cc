#include "moe/score/dense_cosine.h"

#include <cmath>

#include "kernels/gemm.h"
#include "moe/lengths.h"

namespace choir::moe {

DenseCosineScore DenseCosineScore::read(Arguments& arguments) {
  DenseCosineScore word;
  if (const Phrase* kappa = arguments.phrase("kappa"); kappa && !is_name(*kappa, "sqrt_d")) {
    const Phrase alone{"", kName, {*kappa}};
    word.kappa = static_cast<float>(Arguments(alone).number("kappa", 1e-6, 1e6));
  }
  return word;
}

std::string DenseCosineScore::text() const { return written(kName, {"kappa=" + (kappa ? written(*kappa) : "sqrt_d")}); }

float DenseCosineScore::scale(int width) const { return kappa ? *kappa : std::sqrt(static_cast<float>(width)); }

void DenseCosineScore::forward(const Context& context, Matrix<float> z) const {
  const Matrix<const float> x = context.tokens.x;
  kernels::gemm_forward(x, context.tensors[0], z, context.threads);
  const std::vector<float> ix = inverse_lengths(x, context.threads),
                           iw = inverse_lengths(context.tensors[0], context.threads);
  const float size = scale(x.cols);
  for (int t = 0; t < z.rows; ++t)
    for (int e = 0; e < z.cols; ++e) z[t][e] *= size * ix[static_cast<size_t>(t)] * iw[static_cast<size_t>(e)];
}

// With delta = z / kappa and s_te = kappa dz_te / (|x_t| |w_e|):
//   dx_t += sum_e s_te w_e - x_t / |x_t|^2 sum_e dz_te z_te,   dw_e += sum_t s_te x_t - w_e / |w_e|^2 sum_t dz_te z_te.
void DenseCosineScore::backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                                const ScoreGradient& gradient) const {
  const Matrix<const float> x = context.tokens.x, w = tensor::as_matrix(context.tensors[0]),
                            z = routing.scores(context.experts);
  const std::vector<float> ix = inverse_lengths(x, context.threads), iw = inverse_lengths(w, context.threads);
  const float size = scale(x.cols);
  const Buffer<float> buffer(context.pairs());
  const Matrix<float> s = buffer.matrix(dz.rows, dz.cols);
  std::vector<double> turn(static_cast<size_t>(dz.cols));
  for (int t = 0; t < dz.rows; ++t) {
    const float inverse = ix[static_cast<size_t>(t)];
    float along = 0;
    for (int e = 0; e < dz.cols; ++e) {
      s[t][e] = size * dz[t][e] * inverse * iw[static_cast<size_t>(e)];
      along += dz[t][e] * z[t][e];
      turn[static_cast<size_t>(e)] += static_cast<double>(dz[t][e] * z[t][e]);
    }
    const float pull = along * inverse * inverse;
    for (int j = 0; j < x.cols; ++j) gradient.dx[t][j] -= pull * x[t][j];
  }
  for (int e = 0; e < dz.cols; ++e) {
    const float inverse = iw[static_cast<size_t>(e)];
    const float pull = static_cast<float>(turn[static_cast<size_t>(e)]) * inverse * inverse;
    for (int j = 0; j < w.cols; ++j) gradient.tensors[0][e][j] -= pull * w[e][j];
  }
  kernels::gemm_backward_input(s, w, gradient.dx, kernels::Write::kAdd, context.threads);
  kernels::gemm_backward_weight(s, x, gradient.tensors[0], context.threads);
}

}  // namespace choir::moe
