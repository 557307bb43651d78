#include "moe/admit/capacity.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>

#include "moe/admit/affinity.h"

namespace choir::moe {
namespace {

constexpr float kLeastShare = 1e-6f;  // 0 says that nothing has been seen

const char* kModes[] = {"factor", "etr_sum", "etr_bound", "locmoe", "theory"};

// Products of two factors in 1/1000 and of all pairs need more than 64 bits.
__extension__ using Wide = __int128;

// The largest, or the second where the statistic is the quantile that one token in N exceeds. Not of an empty list.
float largest(std::span<float> affinity, bool second) {
  if (!second || affinity.size() < 2) return *std::ranges::max_element(affinity);
  std::ranges::nth_element(affinity, affinity.begin() + 1, std::greater());
  return affinity[1];
}

// The smallest c such that the c largest of max(a, 0) sum to tau of all.
double count_for_mass(std::span<float> affinity, double tau) {
  std::ranges::sort(affinity, std::greater());
  double total = 0, kept = 0;
  for (const float a : affinity) total += std::max(0.0, static_cast<double>(a));
  size_t count = 0;
  while (count < affinity.size() && kept < tau * total) kept += std::max(0.0, static_cast<double>(affinity[count++]));
  return static_cast<double>(count);
}

// A factor in 1/1000, exactly.
int permille(const Arguments& around, double factor) {
  const double thousand = 1000 * factor;
  if (std::abs(thousand - std::round(thousand)) > 1e-6) around.refuse("factors have at most 3 decimals");
  return static_cast<int>(std::lround(thousand));
}

}  // namespace

double log_min_capacity(double cosine, int width, int experts) {
  const double d = std::clamp(cosine, 0.0, 1.0), square = d * d;
  return width * square / (2 - square) - std::log(experts);
}

std::optional<double> log_min_capacity(const Context& context, const Routing& routing) {
  base::Frame frame(context.threads);
  const std::span<const float> cosine = affinities(Affinity::kCosine, context, routing, frame);
  std::optional<float> most;
  for (size_t i = 0; i < cosine.size(); ++i)
    if (routing.proposed[i] >= 0 && !std::isnan(cosine[i])) most = std::max(most, std::optional(cosine[i]));
  if (!most) return {};
  return log_min_capacity(static_cast<double>(*most), context.tokens.x.cols, context.experts);
}

// By quadrature over the largest of E standard normals; between these numbers of experts over log E.
float default_tau(int experts) {
  struct Point {
    int experts;
    double tau;
  };
  constexpr Point kTable[] = {{2, 0.962},  {3, 0.893},  {4, 0.846},   {6, 0.791},  {8, 0.762},
                              {16, 0.715}, {64, 0.671}, {128, 0.660}, {256, 0.651}};
  if (experts <= kTable[0].experts) return static_cast<float>(kTable[0].tau);
  for (size_t i = 1; i < std::size(kTable); ++i) {
    const Point &low = kTable[i - 1], &high = kTable[i];
    if (experts > high.experts) continue;
    const double share = std::log2(static_cast<double>(experts) / low.experts) /
                         std::log2(static_cast<double>(high.experts) / low.experts);
    return static_cast<float>(low.tau + (high.tau - low.tau) * share);
  }
  return static_cast<float>(std::end(kTable)[-1].tau);
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
    c.factor_permille = permille(around, arguments.number("cf", 0.001, 1000, 1.1));
    c.eta_permille = permille(around, arguments.number("eta", 0.001, 10, 1));
  } else {
    if (c.mode == Mode::kEtrSum) {
      if (const double tau = arguments.number("tau", 1e-3, 1, -1); tau > 0) c.tau = static_cast<float>(tau);
    } else if (c.mode == Mode::kTheory) {
      number("rank", 0, 1, c.rank);
    } else if (arguments.name("stat", {"max", "quantile"}) == "quantile") {
      c.statistic = Statistic::kQuantile;
    }
    if (c.mode != Mode::kLocMoe) number("decay", 0, 0.999999, c.decay);  // locmoe keeps the first, without a mean
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
  return written(kModes[static_cast<int>(mode)], {own, mode == Mode::kLocMoe ? "" : "decay=" + written(decay),
                                                  "lo=" + written(lo), "hi=" + written(hi), per, tiles});
}

double Capacity::unit(const Context& context, int choices) const {
  return static_cast<double>(context.tokens.counted()) * (per_token ? 1 : choices) / context.experts;
}

int Capacity::rounded_up(int64_t count, const Context& context) const {
  const int64_t bounded = std::max<int64_t>(1, std::min<int64_t>(count, context.tokens.counted()));
  return static_cast<int>((bounded + tile - 1) / tile * tile);
}

// cf h K N / (h E + Z) with factors in 1/1000; without idle experts that is cf K N / E whatever h is. An idle expert
// takes 1 / h of it.
int Capacity::factor_tokens(const Context& context, int choices, bool idle) const {
  const Wide pairs = static_cast<Wide>(context.tokens.counted()) * (per_token ? 1 : choices);
  const Wide shares = static_cast<Wide>(eta_permille) * (context.experts - context.idle) + Wide{1000} * context.idle;
  const Wide above = factor_permille * pairs * (idle ? 1000 : eta_permille), below = 1000 * shares;
  const Wide count = (above + below - 1) / below;
  return rounded_up(static_cast<int64_t>(std::min<Wide>(count, context.tokens.counted())), context);
}

int Capacity::tokens(const Context& context, int choices) const {
  if (mode == Mode::kFactor) return factor_tokens(context, choices, false);
  const double tracked = context.state[0] > 0 ? static_cast<double>(context.state[0]) : static_cast<double>(hi);
  const double share = std::clamp(tracked, static_cast<double>(lo), static_cast<double>(hi));
  // Shares are floats: 1.1 of 50 is 55.000001 in them, and must not be 56.
  return rounded_up(static_cast<int64_t>(std::ceil(share * (1 - 1e-6) * unit(context, choices))), context);
}

std::vector<int> Capacity::of_experts(const Context& context, int choices) const {
  std::vector<int> result(static_cast<size_t>(context.experts), tokens(context, choices));
  if (mode == Mode::kFactor && eta_permille != 1000)
    for (int e = context.experts - context.idle; e < context.experts; ++e)
      result[static_cast<size_t>(e)] = factor_tokens(context, choices, true);
  return result;
}

// The largest over the experts, in units of K N / E.
double Capacity::share_of(const Context& context, const Routing& routing, std::span<const float> key) const {
  const int choices = static_cast<int>(routing.proposed.size()) / std::max(1, context.tokens.rows());
  const double whole = unit(context, choices);
  const double mass = static_cast<double>(tau ? *tau : default_tau(context.experts));
  base::Frame frame(context.threads);
  const ByExpert lists(context, routing, key, frame);
  std::vector<double> count(static_cast<size_t>(context.experts));
  context.threads.for_each(context.experts, [&](int e) {
    const std::span<float> affinity = lists.of(static_cast<size_t>(e));
    double& tokens = count[static_cast<size_t>(e)];
    if (affinity.empty()) return;
    if (mode == Mode::kEtrSum) {
      tokens = count_for_mass(affinity, mass);
    } else if (mode == Mode::kTheory) {
      tokens = 2 * static_cast<double>(affinity.size()) * (1 - static_cast<double>(rank));
    } else {
      const float most = largest(affinity, statistic == Statistic::kQuantile);
      const double bound = log_min_capacity(static_cast<double>(most), context.tokens.x.cols, context.experts);
      tokens = std::exp(std::min(40.0, bound));
    }
  });
  return whole > 0 ? std::ranges::max(count) / whole : 0;
}

// The bounds of angles and ranks may be anything, and one of them would outweigh all others in the mean.
void Capacity::observe(const Context& context, const Routing& routing, std::span<const float> key,
                       std::span<float> sums) const {
  if (context.tokens.counted() == 0) return;
  const double share = share_of(context, routing, key);
  sums[0] += 1;
  sums[1] += static_cast<float>(
      mode == Mode::kEtrSum ? share : std::clamp(share, static_cast<double>(lo), static_cast<double>(hi)));
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
