// How weigh words walk over the choices of a token.
#pragma once

#include "moe/routing.h"

namespace choir::moe {

// Calls body(slot, expert) for each choice of token t in `list` (proposed or chosen), in slot order.
template <class Body>
void each_slot(const std::vector<int32_t>& list, int choices, int t, const Body& body) {
  const size_t first = static_cast<size_t>(t) * static_cast<size_t>(choices);
  for (int s = 0; s < choices; ++s)
    if (const int32_t e = list[first + static_cast<size_t>(s)]; e >= 0) body(s, e);
}

// Calls body(edge, expert) for each kept choice of token t, in slot order.
template <class Body>
void each_edge(const Routing& routing, int t, const Body& body) {
  const Plan& plan = routing.plan;
  each_slot(routing.chosen, plan.choices, t,
            [&](int s, int32_t e) { body(plan.edge[static_cast<size_t>(t) * plan.choices + s], e); });
}

}  // namespace choir::moe
