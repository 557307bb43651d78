// The loss of one kept set after another, each from the start: what a search that jumps asks for.
#pragma once

#include "base/threads.h"
#include "compress/record.h"

namespace choir::compress {

using base::Threads;

// What a token's errors need and no kept set changes: a the own gains, G the Gram matrix (docs/compress.md, C11).
struct Target {
  std::vector<double> g;   // [N*m] <f_r, z> = (G a)_r
  std::vector<double> zz;  // [N] |z|^2 = a g
};
Target target_of(const LayerRecord& record, Threads& threads);

// |z|^2 - 2 alpha gain + beta gain^2 (C11), where gain is the scale over the divisor; |z|^2 where nobody is left to
// divide by.
double error_of(double zz, double alpha, double beta, double scale, double divisor);

// What the loss weighs a token by. kPublished: 1, the squared Frobenius norm of the paper. kOutput: 1 / |z|^2.
// kStream: 1 / |h|^2 of the residual stream. Norms below a hundredth of the median of those above 0 count as that
// (C20), so that no token weighs more than a hundred times what the median does. kGradient: LayerRecord::slope.
enum class Objective { kPublished, kOutput, kStream, kGradient };
std::vector<double> inverse_norms(std::vector<double> norm);
std::vector<double> objective_weights(const LayerRecord& record, Objective objective, Threads& threads);

// J of any kept set by the record's own rule, about K^2 multiply-adds for a token. Only reads: losses() shares the sets
// out among the threads, each sums its tokens in order.
class SetLoss {
 public:
  // `weight` [N] is not copied; empty: all ones. The record must outlive it.
  SetLoss(const LayerRecord& record, std::span<const double> weight, Threads& threads);

  double loss(const std::vector<int>& kept) const;
  std::vector<double> losses(std::span<const std::vector<int>> sets) const;
  const LayerRecord& record() const { return record_; }

 private:
  double error(int token, std::span<const uint8_t> kept, std::span<int> room) const;

  const LayerRecord& record_;
  std::span<const double> weight_;
  Threads& threads_;
  Target target_;
};

}  // namespace choir::compress
