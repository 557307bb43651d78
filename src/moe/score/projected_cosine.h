// score "projected_cosine": z_te = min(e^t, 100) cos(P x_t, S_e), the cosine gate of microsoft/tutel; with few
// dimensions the low-rank gate of X-MoE (arXiv 2204.09179, section 3.2).
#pragma once

#include "moe/score/linear.h"

namespace choir::moe {

// P (rank,D), S (E,rank), t (1). Starts at e^t = 2, as tutel's 1 / 0.5.
struct ProjectedCosineScore {
  static constexpr const char* kName = "projected_cosine";
  int rank = 256;

  static ProjectedCosineScore read(Arguments& arguments);
  std::string text() const;
  std::vector<GateTensor> tensors(int experts, int width) const;
  float scale(const Context& context) const;
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                const ScoreGradient& gradient) const;
};

}  // namespace choir::moe
