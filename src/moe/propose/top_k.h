// propose "top_k(k)": each token names the k experts of highest score; of equal scores the lower number.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/view.h"

namespace choir::moe {

struct TopK {
  int k = 2;

  // chosen[t*k + s] = the expert in slot s of token t, best first.
  void propose(tensor::Matrix<const float> z, std::vector<int32_t>& chosen) const;
};

}  // namespace choir::moe
