#include "moe/plan.h"

#include <cstddef>

namespace choir::moe {

// A counting sort by expert; going through the tokens in order keeps them ascending within each expert.
void build_plan(const std::vector<int32_t>& chosen, int tokens, int choices, int experts, Plan& plan) {
  plan.tokens = tokens;
  plan.choices = choices;
  plan.input = 1;
  plan.offset.assign(static_cast<size_t>(experts) + 1, 0);
  for (const int32_t e : chosen)
    if (e >= 0) ++plan.offset[e + 1];
  for (int e = 0; e < experts; ++e) plan.offset[e + 1] += plan.offset[e];
  const auto edges = static_cast<size_t>(plan.offset[experts]);
  for (std::vector<int32_t>* list : {&plan.token, &plan.slot}) {
    list->reserve(chosen.size());  // at once, for the next call may keep more
    list->resize(edges);
  }
  plan.weight.reserve(chosen.size());
  plan.weight.assign(edges, 0);
  plan.edge.assign(chosen.size(), -1);
  for (int t = 0; t < tokens; ++t)
    for (int s = 0; s < choices; ++s) {
      const int32_t e = chosen[t * choices + s];
      if (e < 0) continue;
      const int32_t at = plan.offset[e]++;
      plan.token[at] = t;
      plan.slot[at] = s;
      plan.edge[t * choices + s] = at;
    }
  // Each offset has moved to the next one's place.
  for (int e = experts; e > 0; --e) plan.offset[e] = plan.offset[e - 1];
  plan.offset[0] = 0;
}

}  // namespace choir::moe
