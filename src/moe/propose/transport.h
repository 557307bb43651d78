// An exact transportation problem: many sources, few sinks of equal size.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace choir::moe {

// gain (N,E), row-major, each |gain| <= 2^50 / E. Returns the sink of each source: loads are floor(N/E) or ceil(N/E),
// and no other such choice has a larger sum of gains. O(N E^2 + M E log N) for M moves of a source. One thread.
std::vector<int32_t> assign_evenly(std::span<const int64_t> gain, int sinks);

}  // namespace choir::moe
