#include "moe/score/projected_cosine.h"

#include <cmath>

#include "kernels/gemm.h"
#include "moe/score/cosine.h"

namespace choir::moe {
namespace {

constexpr float kMostScale = 100;
enum Place { kExperts, kProjection, kTemperature };

Matrix<float> projected(const Context& context, int rank, base::Frame& frame) {
  const Matrix<float> y = matrix_in(frame, context.tokens.rows(), rank);
  kernels::gemm_forward(context.tokens.x, context.tensors[kProjection], y, context.threads);
  return y;
}

float temperature(const Context& context) { return tensor::as_vector(context.tensors[kTemperature])[0]; }

}  // namespace

ProjectedCosineScore ProjectedCosineScore::read(Arguments& arguments) {
  return {arguments.whole("rank", 1, 65536, 256)};
}

std::string ProjectedCosineScore::text() const {
  return written(kName, {unless("rank", static_cast<float>(rank), 256)});
}

std::vector<GateTensor> ProjectedCosineScore::tensors(int experts, int width) const {
  return {{"gate.weight", experts, rank, 0, 0.01f},
          {"gate_projection.weight", rank, width},
          {"gate_temperature", 1, 1, std::log(2.0f), 0, true}};
}

float ProjectedCosineScore::scale(const Context& context) const {
  return std::min(std::exp(temperature(context)), kMostScale);
}

void ProjectedCosineScore::forward(const Context& context, Matrix<float> z) const {
  base::Frame frame(context.threads);
  cosine_forward(projected(context, rank, frame), context.tensors[kExperts], scale(context), z, context.threads);
}

// Through y = P x: dP += dy^T x, dx += dy P. dt = sum_te dz_te z_te below the limit, else 0.
void ProjectedCosineScore::backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                                    const ScoreGradient& gradient) const {
  const Matrix<const float> x = context.tokens.x, z = routing.scores(context.experts);
  base::Frame frame(context.threads);
  const Matrix<float> y = projected(context, rank, frame), dy = matrix_in(frame, x.rows, rank);
  cosine_backward({.x = y,
                   .w = tensor::as_matrix(context.tensors[kExperts]),
                   .scale = scale(context),
                   .z = z,
                   .dz = dz,
                   .dx = dy,
                   .dw = gradient.tensors[kExperts]},
                  context.threads);
  kernels::gemm_backward_input(dy, tensor::as_matrix(context.tensors[kProjection]), gradient.dx, kernels::Write::kAdd,
                               context.threads);
  kernels::gemm_backward_weight(dy, x, gradient.tensors[kProjection], context.threads);
  if (!(std::exp(temperature(context)) < kMostScale)) return;
  double along = 0;
  for (int t = 0; t < dz.rows; ++t)
    for (int e = 0; e < dz.cols; ++e)
      if (dz[t][e] != 0) along += static_cast<double>(dz[t][e]) * static_cast<double>(z[t][e]);
  gradient.tensors[kTemperature][0][0] += static_cast<float>(along);
}

}  // namespace choir::moe
