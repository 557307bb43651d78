// balance "load(alpha)": alpha E sum_e f_e P_e, with f_e the share of proposals that name expert e and P_e the mean
// softmax probability of e (arXiv 2101.03961, eq. 4; f over all K slots). Equal shares give alpha.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/view.h"

namespace choir::moe {

struct LoadBalance {
  float alpha = 0;

  // The loss; adds its gradient to dz (N,E), with f constant. `chosen` holds the proposals, before any is dropped;
  // dz may be empty.
  double loss(tensor::Matrix<const float> z, const std::vector<int32_t>& chosen, tensor::Matrix<float> dz) const;
};

}  // namespace choir::moe
