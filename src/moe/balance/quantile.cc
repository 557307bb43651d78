#include "moe/balance/quantile.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "moe/propose/ranking.h"

namespace choir::moe {
namespace {

// The value at `rank` from the largest down. Neither a NaN nor a masked expert is among the values.
float ranked(std::span<float> values, size_t rank) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::min(rank, values.size() - 1));
  std::ranges::nth_element(values, at, std::greater());
  return *at;
}

// [N] the (K+1)-th largest of the row's finite keys; NaN where there are no more than K, or for padding.
std::span<const float> levels(const Context& context, Matrix<const float> key, size_t k, base::Frame& frame) {
  const std::span<float> alpha = frame.list<float>(static_cast<size_t>(key.rows), NAN);
  each_row<float>(context, key, [&](int t, std::span<float> room) {
    const auto end = std::ranges::copy_if(key.row(t), room.begin(), [](float v) { return std::isfinite(v); }).out;
    const std::span<float> values(room.begin(), end);
    if (context.tokens.counts(t) && values.size() > k) alpha[static_cast<size_t>(t)] = ranked(values, k);
  });
  return alpha;
}

}  // namespace

Quantile Quantile::read(Arguments& arguments) {
  return {static_cast<float>(arguments.number("decay", 0, 0.999999, 0.9))};
}

void Quantile::shift(const Context& context, Matrix<float> key) const {
  shift_rows(context, context.state.subspan(1), -1, key);
}

// The keys are z - beta. With as many choices as experts nothing is left to balance. Masked experts get no part.
void Quantile::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  const auto experts = static_cast<size_t>(context.experts), k = static_cast<size_t>(routing.plan.choices);
  const Matrix<const float> key = routing.compared(context.tokens.rows(), context.experts);
  base::Frame frame(context.threads);
  const std::span<const float> alpha = levels(context, key, k, frame);
  const std::span<float> numbers = frame.list<float>(context.pairs());
  const std::span<std::span<float>> values = frame.list<std::span<float>>(experts);
  context.threads.for_each(context.experts, [&](int e) {
    const float beta = context.state[static_cast<size_t>(e) + 1];
    const std::span<float> room = part_of(numbers, context.experts, e);
    size_t count = 0;
    for (int t = 0; t < key.rows; ++t)
      if (const float above = key[t][e] + beta - alpha[static_cast<size_t>(t)]; std::isfinite(above))
        room[count++] = above;
    values[static_cast<size_t>(e)] = room.first(count);
  });
  const auto open = static_cast<size_t>(std::ranges::count_if(values, [](const auto& v) { return !v.empty(); }));
  context.threads.for_each(context.experts, [&](int e) {
    const std::span<float> mine = values[static_cast<size_t>(e)];
    if (mine.empty()) return;
    sums[static_cast<size_t>(e)] += ranked(mine, mine.size() * k / open);
    sums[experts + static_cast<size_t>(e)] += 1;
  });
}

void Quantile::update(std::span<const float> sums, std::span<float> state) const {
  const size_t experts = state.size() - 1;
  const auto seen = [&](size_t e) { return sums[experts + e] > 0; };
  double total = 0;
  int count = 0;
  for (size_t e = 0; e < experts; ++e) {
    if (!seen(e)) continue;
    total += static_cast<double>(sums[e] / sums[experts + e]);
    ++count;
  }
  if (count == 0) return;
  const auto mean = static_cast<float>(total / count);
  const float keep = state[0] > 0 ? decay : 0;
  for (size_t e = 0; e < experts; ++e)
    if (seen(e)) state[e + 1] = keep * state[e + 1] + (1 - keep) * (sums[e] / sums[experts + e] - mean);
  state[0] = 1;
}

}  // namespace choir::moe
