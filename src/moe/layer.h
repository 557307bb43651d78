// A mixture-of-experts layer: route, let each expert compute its tokens, combine; forward and backward.
#pragma once

#include <vector>

#include "kernels/gemm.h"
#include "moe/idle_experts.h"
#include "moe/router.h"

namespace choir::moe {

// T is Weight (to compute with) or Matrix<float> (gradients). An expert is w2 (silu(w1 x) * (w3 x)); its width F_e may
// differ from its neighbours'.
template <class T>
struct MoeTensors {
  std::vector<T> gate;  // what the router's score says: Router::tensors
  T state;              // (1,S) numbers of the router that are not trained: Router::state_size; none where S is 0
  std::vector<T> w1;    // [E - idle] gate projections (F_e,D)
  std::vector<T> w2;    // [E - idle] down projections (D,F_e)
  std::vector<T> w3;    // [E - idle] up projections (F_e,D)

  IdleTensors<T> idle;  // experts without these, behind the others

  int experts() const { return static_cast<int>(w1.size()) + idle.count(); }  // E
};

// Buffers of one layer and call, kept for the backward; they grow as needed. M edges, of idle experts in `out` alone; F
// the widest expert.
struct MoeActivations {
  Routing routing;
  Buffer<float> input;             // (N,D) x times the Plan's input, where that is not 1
  Buffer<float> gate, up, hidden;  // (M,F) w1 x, w3 x, their SwiGLU
  Buffer<float> out;               // (M,D) output of each edge's expert, without its weight
};

struct MoeStep {
  Tokens tokens;
  Matrix<float> output;  // (N,D)
  Balancing balancing = Balancing::kOff;
  Rule rule = Rule::kDecode;
  uint64_t seed = 0;                // of the layer and step
  std::span<const float> shares{};  // Context::shares
};

// What the router of a layer sees.
Context context_of(const MoeTensors<Weight>& weights, const MoeStep& step, Threads& threads);

// output = the weighted sum of the chosen experts' outputs of x. Under the decode rule a row's bits do not depend on
// the others.
void moe_forward(const Router& router, const MoeTensors<Weight>& weights, const MoeStep& step,
                 MoeActivations& activations, Threads& threads);

// Runs the experts over a given plan: activations.out from x. Part of the forward, and all that a calibration needs.
void run_experts(const Plan& plan, const MoeTensors<Weight>& weights, Matrix<const float> x,
                 MoeActivations& activations, Threads& threads, kernels::Sums sums = kernels::Sums::kLanes);

struct MoeBackward {
  const MoeStep& step;          // of the forward; its output is not read
  Matrix<const float> doutput;  // (N,D)
  Matrix<float> dx;             // (N,D) added to
  float balance_scale;          // gradient of the total loss by this layer's balance loss
  Buffer<float>& dhidden;       // scratch (M,F) that layers and calls may share; grows as needed
  Matrix<float> previous{};     // Router::Backward
  Matrix<const float> dscore{};
};

// Adds to the gradients. Weights must be float. Overwrites the activations.
void moe_backward(const Router& router, const MoeTensors<Weight>& weights, MoeActivations& activations,
                  const MoeBackward& backward, const MoeTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::moe
