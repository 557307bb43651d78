#include "moe/admit/threshold.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace choir::moe {

Threshold Threshold::read(Arguments& arguments) {
  Threshold word;
  const std::string key = arguments.name("key", {"score", "prob", "cos"});
  word.key = key == "score" ? Affinity::kScore : key == "prob" ? Affinity::kProbability : Affinity::kCosine;
  word.rate = static_cast<float>(arguments.number("rate", 1e-3, 4096));
  word.decay = static_cast<float>(arguments.number("decay", 0, 0.999999, 0.99));
  return word;
}

std::string Threshold::text() const {
  const char* keys[] = {"key=cos", "", "key=prob"};
  return written(kName, {written(rate), unless("decay", decay, 0.99f), keys[static_cast<int>(key)]});
}

std::string Threshold::misfit(int experts, int) const {
  return rate > static_cast<float>(experts) ? "a token cannot have " + written(rate) + " of them" : "";
}

std::span<float> Threshold::of_batch(const Context& context, const Routing& routing, std::span<const float> affinity,
                                     base::Frame& frame) const {
  const ByExpert lists(context, routing, affinity, frame);
  const double mean = static_cast<double>(rate) * context.tokens.counted() / context.experts;
  const auto n = static_cast<size_t>(std::max(1L, std::lround(mean)));
  const std::span<float> theta = frame.list<float>(static_cast<size_t>(context.experts), NAN);
  for (size_t e = 0; e < theta.size(); ++e) {
    const std::span<float> mine = lists.of(e);
    if (mine.empty()) continue;
    const auto at = mine.begin() + static_cast<std::ptrdiff_t>(std::min(n, mine.size()) - 1);
    std::ranges::nth_element(mine, at, std::greater());
    theta[e] = *at;
  }
  return theta;
}

void Threshold::admit(const Context& context, Routing& routing) const {
  base::Frame frame(context.threads);
  const std::span<const float> affinity = affinities(key, context, routing, frame);
  const auto experts = static_cast<size_t>(context.experts);
  const auto seen = [&](size_t e) { return context.state[experts + e] > 0; };
  bool all = true;
  for (size_t e = 0; e < experts; ++e) all = all && seen(e);
  const std::span<float> theta = !all && context.rule == Rule::kTraining ? of_batch(context, routing, affinity, frame)
                                                                         : frame.list<float>(experts, -HUGE_VALF);
  for (size_t e = 0; e < experts; ++e)
    if (seen(e)) theta[e] = context.state[e];
  for (size_t i = 0; i < affinity.size(); ++i)
    if (int32_t& e = routing.chosen[i]; e >= 0 && affinity[i] < theta[static_cast<size_t>(e)]) e = -1;
}

void Threshold::observe(const Context& context, const Routing& routing, std::span<float> sums) const {
  base::Frame frame(context.threads);
  const std::span<float> theta = of_batch(context, routing, affinities(key, context, routing, frame), frame);
  for (size_t e = 0; e < theta.size(); ++e) {
    if (std::isnan(theta[e])) continue;
    sums[e] += theta[e];
    sums[theta.size() + e] += 1;
  }
}

}  // namespace choir::moe
