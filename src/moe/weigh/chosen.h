// weigh "chosen": softmax over the kept experts of a token, which is the softmax over all, renormalised over the kept.
#pragma once

#include <span>

#include "moe/plan.h"
#include "tensor/view.h"

namespace choir::moe {

struct ChosenWeights {
  // plan.weight from the scores z (N,E).
  void forward(tensor::Matrix<const float> z, Plan& plan) const;

  // Adds to dz (N,E), from dweight [M] and the forward's plan.weight.
  void backward(std::span<const float> dweight, const Plan& plan, tensor::Matrix<float> dz) const;
};

}  // namespace choir::moe
