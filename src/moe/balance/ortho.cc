#include "moe/balance/ortho.h"

#include "kernels/gemm.h"
#include "moe/lengths.h"

namespace choir::moe {
namespace {

// V (E,D), 1 / |w_e| and V V^T - I.
struct Gram {
  int experts, width;
  std::vector<float> inverse;
  Buffer<float> unit, off;

  explicit Gram(const Context& context)
      : experts(context.tensors[0].rows),
        width(context.tensors[0].cols),
        inverse(inverse_lengths(context.tensors[0], context.threads)),
        unit(context.tensors[0].size()),
        off(static_cast<size_t>(experts) * static_cast<size_t>(experts)) {
    tensor::widen(context.tensors[0], unit.span());
    for (int e = 0; e < experts; ++e)
      for (float& v : units().row(e)) v *= inverse[static_cast<size_t>(e)];
    kernels::gemm_forward(units(), Matrix<const float>(units()), offs(), context.threads);
    for (int e = 0; e < experts; ++e) offs()[e][e] = inverse[static_cast<size_t>(e)] > 0 ? 0 : -1;
  }
  Matrix<float> units() const { return unit.matrix(experts, width); }
  Matrix<float> offs() const { return off.matrix(experts, experts); }
};

}  // namespace

Ortho Ortho::read(Arguments& arguments) { return {static_cast<float>(arguments.number("c", 0, 1000))}; }

double Ortho::loss(const Context& context, const Routing&) const {
  const Gram gram(context);
  double total = 0;
  for (const float off : gram.off.span()) total += static_cast<double>(off) * static_cast<double>(off);
  return static_cast<double>(c) * total;
}

// dV = 4 c (V V^T - I) V, and dw_e = (dV_e - (dV_e . v_e) v_e) / |w_e|.
void Ortho::backward(const Context& context, const Routing&, const BalanceGradient& gradient) const {
  const Gram gram(context);
  const Buffer<float> buffer(gram.unit.size());
  const Matrix<float> dv = buffer.matrix(gram.experts, gram.width), v = gram.units();
  kernels::gemm_backward_input(gram.offs(), v, dv, kernels::Write::kSet, context.threads);
  for (int e = 0; e < gram.experts; ++e) {
    float along = 0;
    for (int j = 0; j < gram.width; ++j) along += dv[e][j] * v[e][j];
    const float scale = 4 * c * gradient.scale * gram.inverse[static_cast<size_t>(e)];
    for (int j = 0; j < gram.width; ++j) gradient.tensors[0][e][j] += scale * (dv[e][j] - along * v[e][j]);
  }
}

}  // namespace choir::moe
