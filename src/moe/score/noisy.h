// score "noisy": z_te = x_t . w_e + n_te softplus(x_t . v_e) with n normal (Shazeer et al., arXiv 1701.06538, eq. 4).
#pragma once

#include "moe/score/linear.h"

namespace choir::moe {

// The noise is a function of seed and place; at evaluation there is none. Both gates start like any other; the paper
// starts them at 0.
struct NoisyScore {
  static constexpr const char* kName = "noisy";

  static NoisyScore read(Arguments&) { return {}; }
  std::string text() const { return kName; }
  std::vector<GateTensor> tensors(int experts, int width) const {
    return {{"gate.weight", experts, width}, {"gate_noise.weight", experts, width}};
  }
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                const ScoreGradient& gradient) const;
  // 1 / |w_e| of the gate; with noise z / (|w_e| |x_t|) is a noisy cosine.
  std::span<const float> inverse_lengths(const Context& context, base::Frame& frame) const;
};

}  // namespace choir::moe
