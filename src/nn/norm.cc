#include "nn/norm.h"

#include "kernels/layer_norm.h"
#include "kernels/rms_norm.h"
#include "kernels/work.h"

namespace choir::nn {
namespace {

std::span<float> first(const Buffer<float>& buffer, int rows) { return buffer.span().first(static_cast<size_t>(rows)); }

base::Work work_of(const Norm& norm, Matrix<const float> x, int passes) {
  base::Work work = kernels::moved(x.rows, x.cols, passes);
  work.weights = static_cast<int64_t>(norm.scale.size_bytes() + norm.bias.size_bytes());
  return work;
}

}  // namespace

Norm::Norm(const Weight& s, const Weight& b, float e)
    : scale(tensor::as_vector(s)), bias(b.data ? tensor::as_vector(b) : std::span<const float>()), epsilon(e) {}

void norm_forward(const Norm& norm, Matrix<const float> x, Matrix<float> y, NormActivations& activations,
                  Threads& threads) {
  const base::Operator op(threads, "norm", work_of, norm, x, 2);
  activations.inverse.reserve(static_cast<size_t>(x.rows));
  const std::span<float> inverse = first(activations.inverse, x.rows);
  if (norm.bias.empty()) {
    kernels::rms_norm_forward(x, norm.scale, norm.epsilon, y, inverse, threads);
    return;
  }
  activations.mean.reserve(static_cast<size_t>(x.rows));
  kernels::layer_norm_forward(x, {norm.scale, norm.bias, norm.epsilon}, y, {first(activations.mean, x.rows), inverse},
                              threads);
}

void norm_backward(const Norm& norm, Matrix<const float> dy, const NormBackward& backward, Threads& threads) {
  const base::Operator op(threads, "norm", work_of, norm, dy, 4);
  const std::span<const float> inverse = first(backward.activations.inverse, dy.rows);
  if (norm.bias.empty())
    kernels::rms_norm_backward(dy, {backward.x, norm.scale, inverse}, backward.dx, backward.dscale, threads);
  else
    kernels::layer_norm_backward(dy, {backward.x, norm.scale, first(backward.activations.mean, dy.rows), inverse},
                                 {backward.dx, backward.dscale, backward.dbias}, threads);
}

}  // namespace choir::nn
