// The k largest of a row of scores.
#pragma once

#include <cstdint>
#include <span>

namespace choir::kernels {

// chosen.size() is k, at most scores.size(). Writes the positions of the k largest, best first; of equal scores the
// lower position comes first; a NaN counts as the smallest of all.
void top_k(std::span<const float> scores, std::span<int32_t> chosen);

}  // namespace choir::kernels
