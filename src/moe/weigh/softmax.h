// weigh "softmax": the probability of the expert among all E, so that even a single choice passes a gradient to the
// router (arXiv 2101.03961, eq. 2).
#pragma once

#include "moe/arguments.h"
#include "moe/routing.h"

namespace choir::moe {

// With `renorm` divided by the sum over the token's proposals (norm_topk_prob); what is dropped afterwards does not
// change the other weights. With `release` beside it as in the published code of MoE++: zero experts get the weight 0
// and are no part of the sum, and the experts' inputs are multiplied by K.
struct SoftmaxWeights {
  static constexpr const char* kName = "softmax";
  bool renorm = false, release = false;
  float scale = 1;

  static SoftmaxWeights read(Arguments& arguments);
  std::string text() const {
    return written(kName, {renorm ? "renorm" : "", release ? "release" : "", unless("scale", scale, 1)});
  }
  bool reads_probability() const { return !renorm; }
  void forward(const Context& context, Routing& routing) const;
  void backward(const Context& context, const Routing& routing, std::span<const float> dweight, Matrix<float> dz) const;
};

}  // namespace choir::moe
