#include "moe/score/dense_cosine.h"

#include "moe/score/cosine.h"

namespace choir::moe {

DenseCosineScore DenseCosineScore::read(Arguments& arguments) { return {read_kappa(arguments, kName)}; }

std::string DenseCosineScore::text() const { return written(kName, {written_kappa(kappa)}); }

float DenseCosineScore::scale(int width) const { return scale_of(kappa, width); }

void DenseCosineScore::forward(const Context& context, Matrix<float> z) const {
  cosine_forward(context.tokens.x, context.tensors[0], scale(context.tokens.x.cols), z, context.threads);
}

void DenseCosineScore::backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                                const ScoreGradient& gradient) const {
  const Matrix<const float> x = context.tokens.x;
  cosine_backward({.x = x,
                   .w = tensor::as_matrix(context.tensors[0]),
                   .scale = scale(x.cols),
                   .z = routing.scores(context.experts),
                   .dz = dz,
                   .dx = gradient.dx,
                   .dw = gradient.tensors[0]},
                  context.threads);
}

}  // namespace choir::moe
