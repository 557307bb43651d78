// Experts that cost next to nothing (MoE++, arXiv 2410.07348, section 3.1): zero gives 0, copy gives x, constant gives
// a_1 x + a_2 v with a = softmax(W_c x), novice gives v (MoNE: what stands in a pruned expert's place). They stand
// behind the others, in this order.
#pragma once

#include <vector>

#include "moe/dispatch.h"

namespace choir::moe {

using tensor::Weight;

// T is Weight or Matrix<float>, as in MoeTensors.
template <class T>
struct IdleTensors {
  int zero = 0, copy = 0;
  std::vector<T> v;       // (1,D) of each constant expert
  std::vector<T> mix;     // (2,D) of each: W_c
  std::vector<T> novice;  // (1,D) of each novice

  int constant() const { return static_cast<int>(v.size()); }
  int count() const { return zero + copy + constant() + static_cast<int>(novice.size()); }
};

// rows[i] (M,D) = the output of the expert of edge i for its token of x, for the edges of idle experts alone.
void idle_forward(const Plan& plan, const IdleTensors<Weight>& weights, Matrix<const float> x, Matrix<float> rows,
                  Threads& threads);

struct IdleBackward {
  const Plan& plan;
  const IdleTensors<Weight>& weights;           // float
  Matrix<const float> x;                        // (N,D)
  const IdleTensors<Matrix<float>>& gradients;  // added to
};

// For the edges of idle experts alone: rows[i] is the gradient of the layer's output at the token of edge i, and
// becomes that of its x; dweight[i] (M) = the gradient of its gate.
void idle_backward(const IdleBackward& step, Matrix<float> rows, std::span<float> dweight, Threads& threads);

}  // namespace choir::moe
