#include "moe/balance/ortho.h"

#include "kernels/gemm.h"
#include "moe/lengths.h"

namespace choir::moe {
namespace {

// V (E,D), 1 / |w_e| and V V^T - I.
struct Gram {
  int experts, width;
  std::span<const float> inverse;
  Matrix<float> unit, off;

  Gram(const Context& context, base::Frame& frame)
      : experts(context.tensors[0].rows),
        width(context.tensors[0].cols),
        inverse(inverse_lengths(context.tensors[0], frame, context.threads)),
        unit(matrix_in(frame, experts, width)),
        off(matrix_in(frame, experts, experts)) {
    tensor::widen(context.tensors[0], {unit.data, context.tensors[0].size()});
    for (int e = 0; e < experts; ++e)
      for (float& v : unit.row(e)) v *= inverse[static_cast<size_t>(e)];
    kernels::gemm_forward(unit, Matrix<const float>(unit), off, context.threads);
    for (int e = 0; e < experts; ++e) off[e][e] = inverse[static_cast<size_t>(e)] > 0 ? 0 : -1;
  }
};

}  // namespace

Ortho Ortho::read(Arguments& arguments) { return {static_cast<float>(arguments.number("c", 0, 1000))}; }

double Ortho::loss(const Context& context, const Routing&) const {
  base::Frame frame(context.threads);
  const Gram gram(context, frame);
  double total = 0;
  for (int e = 0; e < gram.experts; ++e)
    for (const float off : gram.off.row(e)) total += static_cast<double>(off) * static_cast<double>(off);
  return static_cast<double>(c) * total;
}

// dV = 4 c (V V^T - I) V, and dw_e = (dV_e - (dV_e . v_e) v_e) / |w_e|.
void Ortho::backward(const Context& context, const Routing&, const BalanceGradient& gradient) const {
  base::Frame frame(context.threads);
  const Gram gram(context, frame);
  const Matrix<float> dv = matrix_in(frame, gram.experts, gram.width), v = gram.unit;
  kernels::gemm_backward_input(gram.off, v, dv, kernels::Write::kSet, context.threads);
  for (int e = 0; e < gram.experts; ++e) {
    float along = 0;
    for (int j = 0; j < gram.width; ++j) along += dv[e][j] * v[e][j];
    const float scale = 4 * c * gradient.scale * gram.inverse[static_cast<size_t>(e)];
    for (int j = 0; j < gram.width; ++j) gradient.tensors[0][e][j] += scale * (dv[e][j] - along * v[e][j]);
  }
}

}  // namespace choir::moe
