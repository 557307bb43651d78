// balance "load(alpha)": alpha E sum_e f_e P_e, with f_e the share of proposals that name expert e and P_e the mean
// probability of e (arXiv 2101.03961, eq. 4; f over all K slots). Equal shares give alpha.
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// Where a balance loss puts its gradient, times `scale`; all are added to.
struct BalanceGradient {
  Matrix<float> dz;                        // (N,E) of the scores
  std::span<float> dweight;                // [M] of the plan's weights
  std::span<const Matrix<float>> tensors;  // of the score word's tensors
  float scale = 1;
  Matrix<float> dx{};  // (N,D) of the tokens
};

struct LoadBalance {
  static constexpr const char* kName = "load";
  float alpha = 0;
  bool per_sequence = false;  // f and P within each sequence, mean over sequences (arXiv 2412.19437, eq. 17-20)
  bool sigmoid = false;       // P = sigmoid(z) divided by its sum over all experts, instead of softmax(z)
  float eta = 1;              // weight of experts without weights (arXiv 2410.07348, eq. 10)

  static LoadBalance read(Arguments& arguments);
  std::string text() const;
  bool reads_probability() const { return !sigmoid; }
  bool shares_matter() const { return !per_sequence; }
  // f is a constant: that of the whole step where the context knows it.
  double loss(const Context& context, const Routing& routing) const;
  void backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const;
};

}  // namespace choir::moe
