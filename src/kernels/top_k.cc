#include "kernels/top_k.h"

#include <cmath>
#include <string>

#include "base/error.h"

namespace choir::kernels {
namespace {

bool better(float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

}  // namespace

// Insertion into the sorted list of the best so far. Scores come in order, so an equal one stays behind. In a random
// order the list changes about k log(n / k) times; k is small wherever this is called.
void top_k(std::span<const float> scores, std::span<int32_t> chosen) {
  const size_t k = chosen.size();
  CHOIR_CHECK(k <= scores.size(), std::to_string(k) + " of " + std::to_string(scores.size()));
  if (k == 0) return;
  size_t found = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    size_t place = found;
    while (place > 0 && better(scores[i], scores[static_cast<size_t>(chosen[place - 1])])) --place;
    if (place == k) continue;
    if (found < k) ++found;
    for (size_t j = found - 1; j > place; --j) chosen[j] = chosen[j - 1];
    chosen[place] = static_cast<int32_t>(i);
  }
}

}  // namespace choir::kernels
