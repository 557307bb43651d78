#include "moe/admit/affinity.h"

#include <cmath>

#include "moe/lengths.h"

namespace choir::moe {

Affinities::Affinities(Affinity kind, const Context& context, const Routing& routing, base::Frame& frame)
    : from_((kind == Affinity::kProbability ? routing.probability : routing.score)
                .matrix(context.tokens.rows(), context.experts)) {
  if (kind != Affinity::kCosine) return;
  inverse_gate_ = routing.inverse_length;
  if (inverse_gate_.empty())
    factor_ = 1 / routing.scale;
  else
    inverse_token_ = inverse_lengths(context.tokens.x, frame, context.threads);
}

void of_proposals(const Affinities& affinity, const Context& context, const Routing& routing, std::span<float> to) {
  const auto rows = static_cast<size_t>(context.tokens.rows());
  const size_t choices = rows > 0 ? routing.proposed.size() / rows : 0;
  each_token(context, [&](int t) {
    for (size_t i = static_cast<size_t>(t) * choices, end = i + choices; i < end; ++i)
      to[i] = routing.proposed[i] >= 0 ? affinity.at(t, routing.proposed[i]) : 0;
  });
}

std::span<const float> affinities(Affinity kind, const Context& context, const Routing& routing, base::Frame& frame) {
  const std::span<float> result = frame.list<float>(routing.proposed.size());
  of_proposals(Affinities(kind, context, routing, frame), context, routing, result);
  return result;
}

ByExpert::ByExpert(const Context& context, const Routing& routing, std::span<const float> key, base::Frame& frame)
    : list_(frame.list<float>(key.size())), first_(frame.list<size_t>(static_cast<size_t>(context.experts) + 1)) {
  const auto each = [&](const auto& body) {
    for (size_t i = 0; i < key.size(); ++i)
      if (const int32_t e = routing.proposed[i]; e >= 0 && !std::isnan(key[i])) body(static_cast<size_t>(e), key[i]);
  };
  each([&](size_t e, float) { ++first_[e + 1]; });
  for (size_t e = 1; e < first_.size(); ++e) first_[e] += first_[e - 1];
  const std::span<size_t> next = frame.list(first_);
  each([&](size_t e, float a) { list_[next[e]++] = a; });
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
