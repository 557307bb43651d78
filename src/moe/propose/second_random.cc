#include "moe/propose/second_random.h"

#include "moe/noise.h"
#include "moe/propose/ranking.h"

namespace choir::moe {
namespace {

constexpr uint64_t kStream = 0x5ec0;  // keeps the draws apart from those of other words

// The first e at which the running sum of exp(z_e - z_best) over the others passes u times the whole sum.
int32_t draw(std::span<const float> row, std::span<const int32_t> others, int32_t best, float u) {
  const auto weight = [&](int32_t e) {
    return std::exp(static_cast<double>(row[static_cast<size_t>(e)]) -
                    static_cast<double>(row[static_cast<size_t>(best)]));
  };
  double total = 0, sum = 0;
  for (const int32_t e : others) total += weight(e);
  int32_t last = -1;
  for (const int32_t e : others) {
    const double w = weight(e);
    if (!(w > 0)) continue;
    last = e;
    sum += w;
    if (sum > static_cast<double>(u) * total) break;
  }
  return last;
}

struct Scratch {
  Ranking ranking;
  std::vector<int32_t> others;
};

}  // namespace

void SecondRandom::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  empty_slots(key.rows, 2, proposed);
  const uint64_t stream = scramble(context.seed, kStream);
  each_row<Scratch>(context, key, [&](int t, Scratch& scratch) {
    const std::span<int32_t> slots = slots_of(proposed, 2, t);
    scratch.ranking.begin(key.row(t));
    slots[0] = scratch.ranking.next();
    if (context.rule == Rule::kDecode) {
      slots[1] = scratch.ranking.next();
      return;
    }
    scratch.others.assign(scratch.ranking.left().begin(), scratch.ranking.left().end());
    std::ranges::sort(scratch.others);
    const float u = uniform_at(stream, static_cast<uint64_t>(t));
    slots[1] = draw(key.row(t), scratch.others, slots[0], u);
    // Others so far below the best that their probabilities vanish: the nearest of them.
    if (slots[1] < 0) slots[1] = scratch.ranking.next();
  });
}

}  // namespace choir::moe
