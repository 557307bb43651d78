#include "moe/admit/capacity.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace choir::moe {
namespace {

constexpr float kLeastShare = 1e-6f;  // 0 says that nothing has been seen

const char* kModes[] = {"factor", "etr_sum", "etr_bound", "locmoe", "theory"};

// The affinities of each expert's proposals.
std::vector<std::vector<float>> by_expert(const Context& context, const Routing& routing, std::span<const float> key) {
  std::vector<std::vector<float>> lists(static_cast<size_t>(context.experts));
  for (size_t i = 0; i < key.size(); ++i)
    if (const int32_t e = routing.proposed[i]; e >= 0) lists[static_cast<size_t>(e)].push_back(key[i]);
  return lists;
}

// The smallest c such that the c largest of max(a, 0) sum to tau of all.
double count_for_mass(std::vector<float>& affinity, double tau) {
  std::ranges::sort(affinity, std::greater());
  double total = 0, kept = 0;
  for (const float a : affinity) total += std::max(0.0, static_cast<double>(a));
  size_t count = 0;
  while (count < affinity.size() && kept < tau * total) kept += std::max(0.0, static_cast<double>(affinity[count++]));
  return static_cast<double>(count);
}

// log(e^z / E) of remark 7; in logarithms, for e^z reaches 1e8 at an affinity of 0.1.
double log_bound(double delta, int width, int experts) {
  const double square = delta * delta;
  return width * square / (2 - square) - std::log(experts);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// Quadrature over the largest of E standard normals gives 0.761, 0.715 and 0.671 at 8, 16 and 64 experts for 60 % of
// the tokens; between them the values are interpolated over log E.
float default_tau(int experts) {
  const double x = std::log2(std::max(1, experts));
  const double at[][2] = {{3, 0.76}, {4, 0.71}, {6, 0.67}};
  if (x <= at[0][0]) return static_cast<float>(at[0][1]);
  for (int i = 1; i < 3; ++i)
    if (x <= at[i][0])
      return static_cast<float>(at[i - 1][1] +
                                (at[i][1] - at[i - 1][1]) * (x - at[i - 1][0]) / (at[i][0] - at[i - 1][0]));
  return static_cast<float>(at[2][1]);
}

Capacity Capacity::read(const Phrase* phrase, const Arguments& around) {
  if (!phrase) around.refuse("lacks a capacity: factor(1.1), etr_sum, etr_bound, locmoe or theory");
  const auto mode = std::ranges::find(kModes, phrase->name);
  if (mode == std::end(kModes))
    around.refuse("unknown capacity \"" + phrase->name + "\"; known: factor, etr_sum, etr_bound, locmoe, theory");
  Arguments arguments(*phrase);
  Capacity c;
  c.mode = static_cast<Mode>(mode - kModes);
  const auto number = [&](const char* key, double least, double most, float& value) {
    value = static_cast<float>(arguments.number(key, least, most, static_cast<double>(value)));
  };
  if (c.mode == Mode::kFactor) {
    c.factor_permille = static_cast<int>(std::lround(1000 * arguments.number("cf", 0.001, 1000, 1.1)));
    c.eta_permille = static_cast<int>(std::lround(1000 * arguments.number("eta", 0.001, 10, 1)));
  } else {
    if (c.mode == Mode::kEtrSum) {
      if (const double tau = arguments.number("tau", 1e-3, 1, -1); tau > 0) c.tau = static_cast<float>(tau);
    } else if (c.mode == Mode::kTheory) {
      number("rank", 0, 1, c.rank);
    } else if (arguments.name("stat", {"max", "quantile"}) == "quantile") {
      c.statistic = Statistic::kQuantile;
    }
    number("decay", 0, 0.999999, c.decay);
    number("lo", 0, 1000, c.lo);
    number("hi", 1e-3, 1000, c.hi);
    if (c.lo > c.hi) arguments.refuse("lo is above hi");
  }
  c.per_token = arguments.name("per", {"proposal", "token"}) == "token";
  c.tile = arguments.whole("tile", 1, 4096, 1);
  arguments.done();
  return c;
}

std::string Capacity::text() const {
  const std::string tiles = unless("tile", static_cast<float>(tile), 1), per = per_token ? "per=token" : "";
  if (mode == Mode::kFactor)
    return written("factor", {written(static_cast<float>(factor_permille) / 1000),
                              unless("eta", static_cast<float>(eta_permille) / 1000, 1), per, tiles});
  const std::string own = mode == Mode::kEtrSum               ? tau ? "tau=" + written(*tau) : ""
                          : mode == Mode::kTheory             ? "rank=" + written(rank)
                          : statistic == Statistic::kQuantile ? "stat=quantile"
                                                              : "";
  return written(kModes[static_cast<int>(mode)],
                 {own, "decay=" + written(decay), "lo=" + written(lo), "hi=" + written(hi), per, tiles});
}

double Capacity::unit(const Context& context, int choices) const {
  return static_cast<double>(context.tokens.counted()) * (per_token ? 1 : choices) / context.experts;
}

int Capacity::rounded_up(int64_t count) const {
  return static_cast<int>(ceil_div(std::max<int64_t>(1, count), tile) * tile);
}

// cf h K N / (h E + Z) with factors in 1/1000; without idle experts that is cf K N / E whatever h is.
int Capacity::tokens(const Context& context, int choices) const {
  const int64_t pairs = static_cast<int64_t>(context.tokens.counted()) * (per_token ? 1 : choices);
  int64_t count = 0;
  if (mode == Mode::kFactor) {
    const int64_t shares = eta_permille * static_cast<int64_t>(context.experts - context.idle) + 1000L * context.idle;
    count = ceil_div(factor_permille * eta_permille * pairs, 1000 * shares);
  } else {
    const double tracked = context.state[0] > 0 ? static_cast<double>(context.state[0]) : static_cast<double>(hi);
    const double share = std::clamp(tracked, static_cast<double>(lo), static_cast<double>(hi));
    // Shares are floats: 1.1 of 50 is 55.000001 in them, and must not be 56.
    count = static_cast<int64_t>(std::ceil(share * (1 - 1e-6) * unit(context, choices)));
  }
  return rounded_up(count);
}

std::vector<int> Capacity::of_experts(const Context& context, int choices) const {
  std::vector<int> result(static_cast<size_t>(context.experts), tokens(context, choices));
  if (mode != Mode::kFactor || eta_permille == 1000) return result;
  const int64_t pairs = static_cast<int64_t>(context.tokens.counted()) * (per_token ? 1 : choices);
  const int64_t shares = eta_permille * static_cast<int64_t>(context.experts - context.idle) + 1000L * context.idle;
  for (int e = context.experts - context.idle; e < context.experts; ++e)
    result[static_cast<size_t>(e)] = rounded_up(ceil_div(factor_permille * pairs, shares));
  return result;
}

// The largest over the experts, in units of K N / E.
double Capacity::share_of(const Context& context, const Routing& routing, std::span<const float> key) const {
  const int choices = static_cast<int>(routing.proposed.size()) / std::max(1, context.tokens.rows());
  const double whole = unit(context, choices);
  double most = 0;
  for (std::vector<float>& affinity : by_expert(context, routing, key)) {
    if (affinity.empty()) continue;
    if (mode == Mode::kEtrSum) {
      most = std::max(most, count_for_mass(affinity, static_cast<double>(tau ? *tau : default_tau(context.experts))));
    } else if (mode == Mode::kTheory) {
      most = std::max(most, 2 * static_cast<double>(affinity.size()) * (1 - static_cast<double>(rank)));
    } else {
      std::ranges::sort(affinity, std::greater());
      const size_t at = statistic == Statistic::kQuantile ? std::min<size_t>(1, affinity.size() - 1) : 0;
      const double delta = std::clamp(static_cast<double>(affinity[at]), 0.0, 1.0);
      most = std::max(most, std::exp(std::min(40.0, log_bound(delta, context.tokens.x.cols, context.experts))));
    }
  }
  return whole > 0 ? most / whole : 0;
}

void Capacity::observe(const Context& context, const Routing& routing, std::span<const float> key,
                       std::span<float> sums) const {
  if (context.tokens.counted() == 0) return;
  sums[0] += 1;
  sums[1] +=
      static_cast<float>(std::clamp(share_of(context, routing, key), static_cast<double>(lo), static_cast<double>(hi)));
}

// The tracked share starts at hi; locmoe takes the first batch's and keeps it.
void Capacity::update(std::span<const float> sums, std::span<float> state) const {
  if (mode == Mode::kFactor || sums[0] <= 0) return;
  const float seen = std::max(kLeastShare, sums[1] / sums[0]);
  if (mode == Mode::kLocMoe)
    state[0] = state[0] > 0 ? state[0] : seen;
  else
    state[0] = decay * (state[0] > 0 ? state[0] : hi) + (1 - decay) * seen;
}

}  // namespace choir::moe
