// A mixture-of-experts layer: route, let each expert compute its tokens, combine, add what the shared expert makes of
// every token; forward and backward.
#pragma once

#include "moe/experts.h"
#include "moe/idle_experts.h"
#include "moe/router.h"

namespace choir::moe {

// T is Weight (to compute with) or Matrix<float> (gradients). The lists of ExpertTensors are those of the routed
// experts with weights, [E - idle]. Several shared experts of one width are one feed-forward network of their widths'
// sum. A dense layer is one with a shared expert alone: no lists, no gate, and Router() for its router.
template <class T>
struct MoeTensors : ExpertTensors<T> {
  std::vector<T> gate;  // what the router's score says: Router::tensors
  T state;              // (1,S) numbers of the router that are not trained: Router::state_size; none where S is 0
  FeedForwardTensors<T> shared;  // of every token, without the router's weight; or nothing
  Activation activation;         // of all of these

  IdleTensors<T> idle;  // experts without such tensors, behind the others

  int experts() const { return static_cast<int>(this->w1.size()) + idle.count(); }  // E
};

// Buffers of one layer and call, kept for the backward; they grow as needed. M edges, of idle experts in `out` alone.
struct MoeActivations : ExpertActivations {
  Routing routing;
  Buffer<float> input;  // (N,D) x times the Plan's input, where that is not 1
  Buffer<float> out;    // (M,D) output of each edge's expert, without its weight

  ExpertActivations shared;    // of N rows
  Buffer<float> shared_out;    // (N,D) the shared expert's output, before its gate
  Buffer<float> shared_share;  // (N) sigmoid(gate . x), where it has a gate
};

struct MoeStep {
  Tokens tokens;
  Matrix<float> output;  // (N,D)
  Balancing balancing = Balancing::kOff;
  kernels::Sums sums = kernels::Sums::kLanes;  // of the experts' products
  Rule rule = Rule::kDecode;
  uint64_t seed = 0;                // of the layer and step
  std::span<const float> shares{};  // Context::shares
};

// What the router of a layer sees.
Context context_of(const MoeTensors<Weight>& weights, const MoeStep& step, Threads& threads);

// output = the weighted sum of the chosen experts' outputs of x, and the shared expert's. Under the decode rule a row's
// bits do not depend on the others. In a dense layer the Plan has no edges, of no experts, and the statistics count no
// tokens.
void moe_forward(const Router& router, const MoeTensors<Weight>& weights, const MoeStep& step,
                 MoeActivations& activations, Threads& threads);

// Computes again what moe_backward reads and a later call has overwritten, from x and the routing that stands in the
// activations, bit for bit as moe_forward did. The experts' answers are not among it.
void moe_recompute(const MoeTensors<Weight>& weights, const MoeStep& step, MoeActivations& activations,
                   Threads& threads);

// Runs the routed experts over a given plan: activations.out from x, an expert's b2 included. Part of the forward, and
// all that a calibration needs.
void run_experts(const Plan& plan, const MoeTensors<Weight>& weights, Matrix<const float> x,
                 MoeActivations& activations, Threads& threads, kernels::Sums sums = kernels::Sums::kLanes);

// y (N,D) += the shared expert's output of x; nothing where the layer has none. The other part of the forward, for
// those who run the routed experts over plans of their own.
void add_shared_expert(const MoeTensors<Weight>& weights, Matrix<const float> x, Matrix<float> y,
                       MoeActivations& activations, Threads& threads, kernels::Sums sums = kernels::Sums::kLanes);

struct MoeBackward {
  const MoeStep& step;          // of the forward; its output is not read
  Matrix<const float> doutput;  // (N,D)
  Matrix<float> dx;             // (N,D) added to
  float balance_scale;          // gradient of the total loss by this layer's balance loss
  Buffer<float>& dhidden;       // scratch that layers and calls may share; grows as needed
  Matrix<float> previous{};     // Router::Backward
  Matrix<const float> dscore{};
};

// Adds to the gradients. Weights must be float. Overwrites the activations.
void moe_backward(const Router& router, const MoeTensors<Weight>& weights, MoeActivations& activations,
                  const MoeBackward& backward, const MoeTensors<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::moe
