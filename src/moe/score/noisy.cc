#include "moe/score/noisy.h"

#include "kernels/gemm.h"
#include "moe/lengths.h"
#include "moe/logistic.h"
#include "moe/noise.h"

namespace choir::moe {
namespace {

constexpr uint64_t kStream = 0x4015e;  // keeps the draws apart from those of other words

// v_te = x_t . v_e.
Matrix<float> spread(const Context& context, base::Frame& frame) {
  const Matrix<float> v = matrix_in(frame, context.tokens.rows(), context.experts);
  kernels::gemm_forward(context.tokens.x, context.tensors[1], v, context.threads);
  return v;
}

class Noise {
 public:
  explicit Noise(const Context& context)
      : stream_(scramble(context.seed, kStream)), experts_(static_cast<uint64_t>(context.experts)) {}
  float operator()(int t, int e) const {
    return normal_at(stream_, static_cast<uint64_t>(t) * experts_ + static_cast<uint64_t>(e));
  }

 private:
  uint64_t stream_, experts_;
};

}  // namespace

void NoisyScore::forward(const Context& context, Matrix<float> z) const {
  kernels::gemm_forward(context.tokens.x, context.tensors[0], z, context.threads);
  if (context.rule == Rule::kDecode) return;
  base::Frame frame(context.threads);
  const Matrix<const float> v = spread(context, frame);
  const Noise noise(context);
  each_token(context, [&](int t) {
    for (int e = 0; e < z.cols; ++e) z[t][e] += noise(t, e) * softplus(v[t][e]);
  });
}

// With d_te = dz_te n_te sigmoid(v_te): dx += dz w + d v, dw += dz^T x, dv += d^T x.
void NoisyScore::backward(const Context& context, const Routing&, Matrix<const float> dz,
                          const ScoreGradient& gradient) const {
  gate_backward(context, 0, dz, gradient);
  if (context.rule == Rule::kDecode) return;
  base::Frame frame(context.threads);
  const Matrix<float> d = spread(context, frame);
  const Noise noise(context);
  each_token(context, [&](int t) {
    for (int e = 0; e < d.cols; ++e) d[t][e] = dz[t][e] * noise(t, e) * logistic(d[t][e]);
  });
  gate_backward(context, 1, d, gradient);
}

std::span<const float> NoisyScore::inverse_lengths(const Context& context, base::Frame& frame) const {
  return moe::inverse_lengths(context.tensors[0], frame, context.threads);
}

}  // namespace choir::moe
