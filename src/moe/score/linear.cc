#include "moe/score/linear.h"

#include "kernels/gemm.h"

namespace choir::moe {

void LinearScore::forward(tensor::Matrix<const float> x, const tensor::Weight& w, tensor::Matrix<float> z,
                          base::Threads& threads) const {
  kernels::gemm_forward(x, w, z, threads);
}

// z = x w^T, therefore dx += dz w and dw += dz^T x.
void LinearScore::backward(tensor::Matrix<const float> dz, tensor::Matrix<const float> x, tensor::Matrix<const float> w,
                           const Gradient& gradient, base::Threads& threads) const {
  kernels::gemm_backward_input(dz, w, gradient.dx, kernels::Write::kAdd, threads);
  kernels::gemm_backward_weight(dz, x, gradient.dw, threads);
}

}  // namespace choir::moe
