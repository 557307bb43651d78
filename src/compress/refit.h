// Scalar refit: each kept expert times the constant that brings the pruned layer nearest to the full one.
#pragma once

#include "compress/gain_policy.h"

namespace choir::compress {

struct ScalarRefit {
  std::vector<double> scale;     // [E], 1 for dropped experts
  double before = 0, after = 0;  // J of policy_loss, and J with the scales
};

// c = (A + lambda I)^-1 (s + lambda 1) with A_ij = sum weight b_i b_j <f_i,f_j>, s_i = sum weight b_i <f_i,z> over the
// kept experts (docs/compress.md, C52): shrinks towards no change. `lambda` counts in mean diagonals of A and is above
// 0. Needs a policy that the record can evaluate. O(N K^2 + r^3). Throws Error (usage) for another lambda.
ScalarRefit refit_scales(const PolicyCase& c, double lambda);

// Layer l with scale[i] times the down projection of its expert i, rounded to the format that it has.
Model with_scales(const Model& model, int l, std::span<const double> scale);

}  // namespace choir::compress
