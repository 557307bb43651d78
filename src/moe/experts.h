// What an expert is, a gated feed-forward network, and how many of them compute their own rows.
#pragma once

#include <vector>

#include "kernels/swiglu.h"
#include "nn/linear.h"

namespace choir::moe {

using base::Threads;
using kernels::Activation;
using tensor::Buffer;
using tensor::Matrix;
using tensor::Weight;

// w2 a(w1 x + b1, w3 x + b3) + b2, a the activation of the layer. T is Weight (to compute with) or Matrix<float>
// (gradients). What has no data is not there.
template <class T>
struct FeedForwardTensors {
  T w1, w2, w3;  // gate (F,D), down (D,F), up (F,D)
  T b1, b2, b3;  // (1,F), (1,D), (1,F)
  T gate;        // (1,D): the output is multiplied with the sigmoid of gate . x

  bool has() const { return w1.data != nullptr; }
};

// E of them, of widths that may differ.
template <class T>
struct ExpertTensors {
  std::vector<T> w1, w2, w3;  // [E] gate (F_e,D), down (D,F_e), up (F_e,D)
  std::vector<T> b1, b2, b3;  // [E] (1,F_e), (1,D), (1,F_e), an expert's without data where it has none; or empty

  // Takes expert e of another layer over, behind the others. Either all experts of a list come so, or none.
  void add(const ExpertTensors& from, size_t e) {
    for (const auto list : {&ExpertTensors::w1, &ExpertTensors::w2, &ExpertTensors::w3, &ExpertTensors::b1,
                            &ExpertTensors::b2, &ExpertTensors::b3})
      if (const std::vector<T>& all = from.*list; !all.empty()) (this->*list).push_back(all[e]);
  }
};

// The same, looked at: of a list of experts, or of one network as the only one of a list.
template <class T>
struct ExpertViews {
  std::span<const T> w1, w2, w3, b1, b2, b3;

  ExpertViews(const ExpertTensors<T>& all) : w1(all.w1), w2(all.w2), w3(all.w3), b1(all.b1), b2(all.b2), b3(all.b3) {}
  ExpertViews(const FeedForwardTensors<T>& one)
      : w1(&one.w1, 1), w2(&one.w2, 1), w3(&one.w3, 1), b1(&one.b1, 1), b2(&one.b2, 1), b3(&one.b3, 1) {}
};

// Buffers of one call, kept for the backward; they grow as needed. M rows, F the widest expert.
struct ExpertActivations {
  Buffer<float> gate, up, hidden;  // (M,F) w1 x + b1, w3 x + b3, what the activation makes of them
  nn::PackedRoom blocks;
};

// Who computes which rows: expert e those from rows.offset[e] to rows.offset[e+1] - 1, of x (N,D) as rows.row says.
struct ExpertStep {
  kernels::Groups rows;
  Matrix<const float> x;
  Activation activation;
};

// out (M,D) = each row's answer. Under Sums::kLanes a row's bits do not depend on the others.
void experts_forward(const ExpertStep& step, const ExpertViews<Weight>& weights, kernels::Sums sums,
                     ExpertActivations& activations, Matrix<float> out, Threads& threads);

// The first half of it: the activations, without the product with w2 that makes the answers of them.
void experts_hidden(const ExpertStep& step, const ExpertViews<Weight>& weights, kernels::Sums sums,
                    ExpertActivations& activations, Threads& threads);

struct ExpertBackward {
  const ExpertStep& step;
  std::span<const float> weight;  // [M] what each row's answer is multiplied with; empty: 1
  Matrix<const float> dout;       // (M,D) gradient of the product
  Matrix<float> dx;               // (M,D) of each row's x; may be dout
  kernels::Target target;         // of dx; the other products are summed the same way
  std::span<float> dweight;       // [M] set; empty where there are no weights
  Buffer<float>& dhidden;         // scratch (M,F); grows as needed
};

// Adds to the gradients. Weights must be float. Overwrites the activations.
void experts_backward(const ExpertBackward& backward, const ExpertViews<Weight>& weights,
                      ExpertActivations& activations, const ExpertViews<Matrix<float>>& gradients, Threads& threads);

}  // namespace choir::moe
