// Which expert computes which token, and with what weight: the one product of a router.
#pragma once

#include <cstdint>
#include <vector>

namespace choir::moe {

// One layer, N tokens, E experts, at most K choices for each token, M kept edges (token, expert). Dispatch, experts,
// combine, statistics and pruning know the Plan and nothing of the router that made it.
struct Plan {
  int tokens = 0, choices = 0;  // N, K
  float input = 1;              // what the experts multiply their tokens by
  std::vector<int32_t> offset;  // [E+1] the edges of expert e are offset[e] .. offset[e+1]-1
  std::vector<int32_t> token;   // [M] ascending within an expert
  std::vector<int32_t> slot;    // [M] rank of the choice in its token's list, 0 .. K-1
  std::vector<float> weight;    // [M] gate: the weight of the expert's output
  std::vector<int32_t> edge;    // [N*K] edge of (token, slot), -1 where there is none

  int experts() const { return static_cast<int>(offset.size()) - 1; }
  int edges() const { return static_cast<int>(token.size()); }
};

// What the discrete words of a router say: chosen[t*K + s] is the expert in slot s of token t, -1 for none.
// Fills everything but the weights; the input is 1. O(N K + E).
void build_plan(const std::vector<int32_t>& chosen, int tokens, int choices, int experts, Plan& plan);

}  // namespace choir::moe
