#include "moe/score/dense_cosine.h"

#include <cmath>

#include "moe/score/cosine.h"

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
