#include "moe/admit/affinity.h"

#include "moe/lengths.h"

namespace choir::moe {

Affinities::Affinities(Affinity kind, const Context& context, const Routing& routing)
    : from_((kind == Affinity::kProbability ? routing.probability : routing.score)
                .matrix(context.tokens.rows(), context.experts)) {
  if (kind != Affinity::kCosine) return;
  inverse_gate_ = routing.inverse_length;
  if (inverse_gate_.empty())
    factor_ = 1 / routing.scale;
  else
    inverse_token_ = inverse_lengths(context.tokens.x, context.threads);
}

std::vector<float> of_proposals(const Affinities& affinity, const Context& context, const Routing& routing) {
  const auto rows = static_cast<size_t>(context.tokens.rows());
  const size_t choices = rows > 0 ? routing.proposed.size() / rows : 0;
  std::vector<float> result(routing.proposed.size());
  each_token(context, [&](int t) {
    for (size_t i = static_cast<size_t>(t) * choices, end = i + choices; i < end; ++i)
      if (const int32_t e = routing.proposed[i]; e >= 0) result[i] = affinity.at(t, e);
  });
  return result;
}

std::vector<float> affinities(Affinity kind, const Context& context, const Routing& routing) {
  return of_proposals(Affinities(kind, context, routing), context, routing);
}

void track(float decay, std::span<const float> sums, std::span<float> state) {
  const size_t experts = state.size() / 2;
  for (size_t e = 0; e < experts; ++e) {
    if (sums[experts + e] <= 0) continue;
    const float now = sums[e] / sums[experts + e], keep = state[experts + e] > 0 ? decay : 0;
    state[e] = keep * state[e] + (1 - keep) * now;
    state[experts + e] = 1;
  }
}

}  // namespace choir::moe
