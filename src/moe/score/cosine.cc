#include "moe/score/cosine.h"

#include "kernels/gemm.h"
#include "moe/lengths.h"

namespace choir::moe {

void cosine_forward(Matrix<const float> x, const Weight& w, float scale, Matrix<float> z, Threads& threads) {
  kernels::gemm_forward(x, w, z, threads);
  const std::vector<float> ix = inverse_lengths(x, threads), iw = inverse_lengths(w, threads);
  for (int t = 0; t < z.rows; ++t)
    for (int e = 0; e < z.cols; ++e) z[t][e] *= scale * ix[static_cast<size_t>(t)] * iw[static_cast<size_t>(e)];
}

// With s_te = scale dz_te / (|x_t| |w_e|):
//   dx_t += sum_e s_te w_e - x_t / |x_t|^2 sum_e dz_te z_te,   dw_e += sum_t s_te x_t - w_e / |w_e|^2 sum_t dz_te z_te.
// A masked expert has z = -infinity and dz = 0.
void cosine_backward(const CosineBackward& step, Threads& threads) {
  const Matrix<const float> x = step.x, w = step.w, z = step.z, dz = step.dz;
  const std::vector<float> ix = inverse_lengths(x, threads), iw = inverse_lengths(w, threads);
  const Buffer<float> buffer(static_cast<size_t>(dz.rows) * static_cast<size_t>(dz.cols));
  const Matrix<float> s = buffer.matrix(dz.rows, dz.cols);
  std::vector<double> turn(static_cast<size_t>(dz.cols));
  for (int t = 0; t < dz.rows; ++t) {
    const float inverse = ix[static_cast<size_t>(t)];
    float along = 0;
    for (int e = 0; e < dz.cols; ++e) {
      s[t][e] = step.scale * dz[t][e] * inverse * iw[static_cast<size_t>(e)];
      const float product = dz[t][e] != 0 ? dz[t][e] * z[t][e] : 0;
      along += product;
      turn[static_cast<size_t>(e)] += static_cast<double>(product);
    }
    const float pull = along * inverse * inverse;
    for (int j = 0; j < x.cols; ++j) step.dx[t][j] -= pull * x[t][j];
  }
  for (int e = 0; e < dz.cols; ++e) {
    const float inverse = iw[static_cast<size_t>(e)];
    const float pull = static_cast<float>(turn[static_cast<size_t>(e)]) * inverse * inverse;
    for (int j = 0; j < w.cols; ++j) step.dw[e][j] -= pull * w[e][j];
  }
  kernels::gemm_backward_input(s, w, step.dx, kernels::Write::kAdd, threads);
  kernels::gemm_backward_weight(s, x, step.dw, threads);
}

}  // namespace choir::moe
