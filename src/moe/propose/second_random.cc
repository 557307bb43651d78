#include "moe/propose/second_random.h"

#include "moe/noise.h"
#include "moe/propose/ranking.h"

namespace choir::moe {
namespace {

constexpr uint64_t kStream = 0x5ec0;  // keeps the draws apart from those of other words

// The best of the row but `without`; of equal ones the lower; never a masked one or a NaN.
int32_t best_of(std::span<const float> row, int32_t without) {
  int32_t best = -1;
  float most = -HUGE_VALF;
  for (int32_t e = 0; e < static_cast<int32_t>(row.size()); ++e)
    if (e != without && row[static_cast<size_t>(e)] > most) {
      best = e;
      most = row[static_cast<size_t>(e)];
    }
  return best;
}

// The first e at which the running sum of exp(z_e - z_best) over the others passes u times the whole sum; where the
// others are so far below that nothing is left of their probabilities, the best of them. `sums` is scratch.
int32_t draw(std::span<const float> row, int32_t best, float u, std::span<double> sums) {
  if (best < 0) return -1;
  double total = 0;
  for (int32_t e = 0; e < static_cast<int32_t>(row.size()); ++e) {
    const float below = row[static_cast<size_t>(e)] - row[static_cast<size_t>(best)];
    if (e != best && below > -HUGE_VALF) total += std::exp(static_cast<double>(below));
    sums[static_cast<size_t>(e)] = total;
  }
  if (!(total > 0)) return best_of(row, best);
  return static_cast<int32_t>(std::ranges::upper_bound(sums, static_cast<double>(u) * total) - sums.begin());
}

}  // namespace

void SecondRandom::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  empty_slots(key.rows, 2, proposed);
  const uint64_t stream = scramble(context.seed, kStream);
  each_row<double>(context, key, [&](int t, std::span<double> sums) {
    const std::span<int32_t> slots = slots_of(proposed, 2, t);
    slots[0] = best_of(key.row(t), -1);
    slots[1] = context.rule == Rule::kDecode
                   ? best_of(key.row(t), slots[0])
                   : draw(key.row(t), slots[0], uniform_at(stream, static_cast<uint64_t>(t)), sums);
  });
}

}  // namespace choir::moe
