// How far the experts of one layer are apart: in the tokens that come to them and in what they answer.
#pragma once

#include <optional>
#include <vector>

#include "moe/layer.h"

namespace choir::train {

using tensor::Matrix;

// Sums over all that was added; one thread at a time.
class LayerGeometry {
 public:
  LayerGeometry(int experts, int width);

  // Inputs x (N,D) of the experts, in groups by the expert of largest weight among those that take the token.
  void add_inputs(Matrix<const float> x, const moe::Routing& routing);
  // Every expert answers every row of x.
  void add_answers(Matrix<const float> x, const moe::MoeTensors<tensor::Weight>& weights, base::Threads& threads);

  // Calinski-Harabasz: (dispersion between / (k - 1)) / (within / (N - k)) of the k groups that are not empty. None
  // where there are no two groups, or nothing within them.
  std::optional<double> ch_index() const;
  // [E][E] mean cosine of two experts' answers to the same token.
  std::vector<std::vector<double>> cosines() const;

 private:
  int experts_, width_;
  std::vector<int64_t> count_;               // [E]
  std::vector<double> sum_;                  // [E*D] of the inputs
  double square_ = 0;                        // sum of |x|^2
  int64_t answered_ = 0;                     // rows
  std::vector<std::vector<double>> cosine_;  // [E][E] sums
  moe::MoeActivations activations_;
};

}  // namespace choir::train
