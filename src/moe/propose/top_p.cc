#include "moe/propose/top_p.h"

#include "moe/propose/ranking.h"

namespace choir::moe {
namespace {

// Fills slots best first until the weights of what was taken reach `least`.
template <class Weight>
void take(Ranking& ranking, double least, const Weight& weight, std::span<int32_t> slots) {
  double sum = 0;
  for (int32_t& slot : slots) {
    if (!(sum < least)) return;
    slot = ranking.next();
    if (slot < 0) return;
    sum += weight(slot);
  }
}

// A share is a float: 0.4 of 5 equal weights is a hair above 2 of them, and must not be 3. All stays all.
double short_of(float share) { return share < 1 ? static_cast<double>(share) * (1 - 1e-6) : 1; }

std::string at_most(int most) { return unless("most", static_cast<float>(most), 0); }

}  // namespace

TopP TopP::read(Arguments& arguments) {
  TopP word;
  word.p = static_cast<float>(arguments.number("p", 1e-6, 1));
  word.most = arguments.whole("most", 0, 4096, 0);
  return word;
}

std::string TopP::text() const { return written(kName, {written(p), at_most(most)}); }

void TopP::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  const int k = choices(key.cols);
  empty_slots(key.rows, k, proposed);
  each_row<int32_t>(context, key, [&](int t, std::span<int32_t> room) {
    const std::span<const float> z = key.row(t);
    Ranking ranking(room, z);
    if (ranking.left().empty()) return;
    const auto best = static_cast<double>(z[static_cast<size_t>(ranking.left()[0])]);  // a heap's first is its largest
    const auto weight = [&](int32_t e) { return std::exp(static_cast<double>(z[static_cast<size_t>(e)]) - best); };
    double total = 0;
    for (const int32_t e : ranking.left()) total += weight(e);
    take(ranking, short_of(p) * total, weight, slots_of(proposed, k, t));
  });
}

Mass Mass::read(Arguments& arguments) {
  Mass word;
  word.tau = static_cast<float>(arguments.number("tau", 1e-6, 1));
  word.most = arguments.whole("most", 0, 4096, 0);
  return word;
}

std::string Mass::text() const { return written(kName, {written(tau), at_most(most)}); }

void Mass::propose(const Context& context, Matrix<const float> key, std::vector<int32_t>& proposed) const {
  const int k = choices(key.cols);
  empty_slots(key.rows, k, proposed);
  each_row<int32_t>(context, key, [&](int t, std::span<int32_t> room) {
    const std::span<const float> z = key.row(t);
    Ranking ranking(room, z, 0);
    const auto weight = [&](int32_t e) { return static_cast<double>(z[static_cast<size_t>(e)]); };
    double total = 0;
    for (const int32_t e : ranking.left()) total += weight(e);
    take(ranking, short_of(tau) * total, weight, slots_of(proposed, k, t));
  });
}

}  // namespace choir::moe
