#include "moe/admit/skip.h"

#include <cmath>

#include "base/error.h"

namespace choir::moe {

float weight_ratio(float first, float second) { return std::exp(second - first); }

Skip Skip::read(Arguments& arguments) { return {static_cast<float>(arguments.number("beta", 0, 1e30))}; }

void Skip::admit(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.score.matrix(context.tokens.rows(), context.experts);
  std::vector<int32_t>& chosen = routing.chosen;
  CHOIR_CHECK(chosen.size() == 2 * static_cast<size_t>(z.rows), "skip is defined for top-2 routing");
  for (int t = 0; t < z.rows; ++t) {
    const int32_t first = chosen[2 * static_cast<size_t>(t)];
    int32_t& second = chosen[2 * static_cast<size_t>(t) + 1];
    if (first >= 0 && second >= 0 && weight_ratio(z[t][first], z[t][second]) < beta) second = -1;
  }
}

}  // namespace choir::moe
