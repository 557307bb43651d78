#include "moe/admit/skip.h"

#include <cmath>

#include "base/error.h"

namespace choir::moe {

float weight_ratio(float first, float second) { return std::exp(second - first); }

void Skip::admit(tensor::Matrix<const float> z, int choices, std::vector<int32_t>& chosen) const {
  CHOIR_CHECK(choices == 2, "skip is defined for top-2 routing");
  for (int t = 0; t < z.rows; ++t) {
    const int32_t first = chosen[2 * t];
    int32_t& second = chosen[2 * t + 1];
    if (first >= 0 && second >= 0 && weight_ratio(z[t][first], z[t][second]) < beta) second = -1;
  }
}

}  // namespace choir::moe
