// score "grap" and "grap_cosine": grouped average pooling. Expert e owns the channels [eD/E, (e+1)D/E) of a token, and
// its affinity is their mean (LocMoE, arXiv 2401.13920, section 3.2) or the cosine between the token and the vector
// that averages them (Expert-Token Resonance, arXiv 2406.00023, eq. 4).
#pragma once

#include "moe/score/linear.h"

namespace choir::moe {

// [E+1] floor(e D / E); blocks may differ by one channel. A list of that frame.
std::span<const int32_t> block_bounds(int experts, int width, base::Frame& frame);

// Why there are no such blocks, or nothing.
std::string misfit_of_blocks(int experts, int width);

// z_te = relu(mean of block e + eps). No parameters.
struct GrapScore {
  static constexpr const char* kName = "grap";
  float eps = 0;

  static GrapScore read(Arguments& arguments);
  std::string text() const;
  std::string misfit(int experts, int width) const { return misfit_of_blocks(experts, width); }
  bool is_cosine() const { return eps == 0; }  // behind the rectifier, and times a length
  std::vector<GateTensor> tensors(int, int) const { return {}; }
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                const ScoreGradient& gradient) const;
  // 1 / |w_e| = sqrt(b_e) for the mean of b_e channels.
  std::span<const float> inverse_lengths(const Context& context, base::Frame& frame) const;
};

// z_te = kappa cos(x_t, w_e) with w_e constant on block e and 0 elsewhere; with `learn` w_e is learnt on its block, one
// number for each channel. A zero vector has affinity 0 and no gradient.
struct GrapCosineScore {
  static constexpr const char* kName = "grap_cosine";
  std::optional<float> kappa;  // none: sqrt(D), which makes z of isotropic tokens standard normal
  bool learn = false;
  float center = 0;  // > 0: proposals compare z_te minus its mean over tokens, tracked with this decay

  static GrapCosineScore read(Arguments& arguments);
  std::string text() const;
  std::string misfit(int experts, int width) const { return misfit_of_blocks(experts, width); }
  std::vector<GateTensor> tensors(int experts, int width) const;
  float scale(int width) const;
  void forward(const Context& context, Matrix<float> z) const;
  void backward(const Context& context, const Routing& routing, Matrix<const float> dz,
                const ScoreGradient& gradient) const;

  int sums_size(int experts) const { return state_size(experts); }
  // State [E+1]: whether there is a mean yet, and the mean of z_te over tokens. Sums [E+1]: tokens, sum of z_te.
  int state_size(int experts) const { return center > 0 ? experts + 1 : 0; }
  void shift(const Context& context, Matrix<float> key) const;
  void observe(const Context& context, const Routing& routing, std::span<float> sums) const;
  void update(std::span<const float> sums, std::span<float> state) const;
};

}  // namespace choir::moe
