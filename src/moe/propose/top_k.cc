#include "moe/propose/top_k.h"

#include "kernels/top_k.h"

namespace choir::moe {

void TopK::propose(tensor::Matrix<const float> z, std::vector<int32_t>& chosen) const {
  chosen.resize(static_cast<size_t>(z.rows) * static_cast<size_t>(k));
  for (int t = 0; t < z.rows; ++t)
    kernels::top_k(z.row(t), std::span(chosen).subspan(static_cast<size_t>(t) * k, static_cast<size_t>(k)));
}

}  // namespace choir::moe
