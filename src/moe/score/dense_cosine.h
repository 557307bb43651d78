// score "dense_cosine": z_te = kappa cos(x_t, w_e) with a learnt w_e over all channels.
#pragma once

#include "moe/score/linear.h"

namespace choir::moe {

struct DenseCosineScore {
  static constexpr const char* kName = "dense_cosine";
  std::optional<float> kappa;  // none: sqrt(D)

  static DenseCosineScore read(Arguments& arguments);
  std::string text() const;
  std::vector<GateTensor> tensors(int experts, int width) const { return {{"gate.weight", experts, width}}; }
  float scale(int width) const;
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                const ScoreGradient& gradient) const;
};

}  // namespace choir::moe
