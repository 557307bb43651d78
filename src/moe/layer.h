// A mixture-of-experts layer: route, let each expert compute its tokens, combine; forward and backward.
#pragma once

#include <vector>

#include "moe/router.h"

namespace choir::moe {

using base::Threads;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// T is Weight (to compute with) or Matrix<float> (gradients). An expert is w2 (silu(w1 x) * (w3 x)); its width F_e may
// differ from its neighbours'.
template <class T>
struct MoeTensors {
  T gate;             // (E,D)
  std::vector<T> w1;  // [E] gate projections (F_e,D)
  std::vector<T> w2;  // [E] down projections (D,F_e)
  std::vector<T> w3;  // [E] up projections (F_e,D)

  int experts() const { return static_cast<int>(w1.size()); }
};

// Buffers of one layer and call, kept for the backward; they grow as needed. M edges, F the widest expert.
struct MoeActivations {
  Routing routing;
  Buffer<float> gate, up, hidden;  // (M,F) w1 x, w3 x, their SwiGLU
  Buffer<float> out;               // (M,D) output of each edge's expert, without its weight
};

struct MoeStep {
  Matrix<const float> x;  // (N,D)
  Matrix<float> output;   // (N,D)
  Balancing balancing;
};

// output = the weighted sum of the chosen experts' outputs of x. A row's bits do not depend on the others.
void moe_forward(const Router& router, const MoeTensors<Weight>& weights, const MoeStep& step,
                 MoeActivations& activations, Threads& threads);

// Runs the experts over a given plan: activations.out from x. Part of the forward, and all that a calibration needs.
void run_experts(const Plan& plan, const MoeTensors<Weight>& weights, Matrix<const float> x,
                 MoeActivations& activations, Threads& threads);

struct MoeBackward {
  Matrix<const float> x, doutput;  // (N,D)
  Matrix<float> dx;                // (N,D) added to
  float balance_scale;             // gradient of the total loss by this layer's balance loss
};

// Adds to the gradients. Weights must be float. Overwrites the activations.
void moe_backward(const Router& router, const MoeTensors<Weight>& weights, MoeActivations& activations,
                  const MoeBackward& backward, const MoeTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::moe
