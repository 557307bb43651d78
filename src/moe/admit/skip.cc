#include "moe/admit/skip.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace choir::moe {
namespace {

// The choices of one token as slots and their weights, largest first.
struct Sorted {
  std::span<int> slot;
  std::span<float> weight, feature;

  // Each of the lists has room for all slots. They are nearly in this order already; a NaN stays where it is.
  void fill(const Skip& skip, const float* z, std::span<const int32_t> chosen) {
    size_t count = 0;
    float most = -INFINITY;
    for (const int32_t e : chosen)
      if (e >= 0) most = std::max(most, z[e]);
    for (size_t s = 0; s < chosen.size(); ++s) {
      if (chosen[s] < 0) continue;
      const float w = gain_of_logit(skip.gain, z[chosen[s]], most);
      size_t at = count++;
      for (; at > 0 && weight[at - 1] < w; --at) {
        weight[at] = weight[at - 1];
        slot[at] = slot[at - 1];
      }
      weight[at] = w;
      slot[at] = static_cast<int>(s);
    }
    slot = slot.first(count);
    weight = weight.first(count);
    feature = feature.first(count);
  }
};

}  // namespace

float weight_ratio(SubsetRule::Gain gain, float one, float other) {
  const auto [low, high] = std::minmax(one, other);
  return gain_of_logit(gain, low, high) / gain_of_logit(gain, high, high);
}

Skip Skip::read(Arguments& arguments) {
  Skip word;
  word.amends = Amends::read(arguments);
  if (arguments.has("count")) {
    word.by = By::kCount;
    word.least = arguments.whole("count", 1, 4096);
  } else if (arguments.has("tail")) {
    word.by = By::kTail;
    word.beta = static_cast<float>(arguments.number("tail", 0, 1));
  } else if (arguments.has("ser")) {
    word.by = By::kBest;
    word.beta = static_cast<float>(arguments.number("ser", 0, 1));
    word.least = arguments.whole("least", 1, 4096, 1);
  } else {
    word.beta = static_cast<float>(arguments.number("beta", 0, 1e30));
  }
  return word;
}

std::string Skip::text() const {
  switch (by) {
    case By::kTail: return written(kName, {"tail=" + written(beta), amends.text()});
    case By::kBest:
      return written(kName, {"ser=" + written(beta), unless("least", static_cast<float>(least), 1), amends.text()});
    case By::kCount: return written(kName, {"count=" + std::to_string(least), amends.text()});
    default: return written(kName, {written(beta), amends.text()});
  }
}

std::string Skip::misfit(int, int width) const {
  if (amends.channels == 0 || amends.channels == width) return "";
  return "what is skipped is amended in " + std::to_string(amends.channels) + " channels of " + std::to_string(width);
}

void Skip::finish(const Context& context, const Plan& plan, Matrix<float> y) const {
  if (amends.any()) amends.forward(context, plan, y);
}

void Skip::finish_backward(const Context& context, const Plan& plan, Matrix<float> rows) const {
  if (amends.any()) amends.backward(context, plan, rows);
}

void Skip::features(By by, std::span<const float> weight, std::span<float> feature) {
  if (by != By::kTail) {
    for (size_t i = 1; i < weight.size(); ++i) feature[i - 1] = weight[i] / weight[0];
    return;
  }
  float tail = 0;  // from the smallest up
  for (size_t i = weight.size(); i-- > 1;) feature[i - 1] = tail += weight[i];
  const float all = tail + (weight.empty() ? 0 : weight[0]);
  for (size_t i = 1; i < weight.size(); ++i) feature[i - 1] /= all;
}

int Skip::kept(std::span<const float> weight, std::span<float> feature) const {
  const int all = static_cast<int>(weight.size());
  if (by == By::kCount) return std::min(all, least);
  if (beta == 0) return all;
  features(by, weight, feature);
  for (int i = least; i < all; ++i) {
    const float u = feature[static_cast<size_t>(i) - 1];
    if (by == By::kRatio ? u < beta : u <= beta) return i;
  }
  return all;
}

void Skip::admit(const Context& context, Routing& routing) const {
  const Matrix<const float> z = routing.score.matrix(context.tokens.rows(), context.experts);
  if (z.rows == 0) return;
  const size_t k = routing.chosen.size() / static_cast<size_t>(z.rows);
  CHOIR_CHECK(by != By::kRatio || k == 2, "skip(beta) is defined for top-2 routing");
  base::Frame frame(context.threads);
  const size_t all = routing.chosen.size();
  const std::span<int> slot = frame.list<int>(all);
  const std::span<float> weight = frame.list<float>(all), feature = frame.list<float>(all);
  each_token(context, [&](int t) {
    const size_t first = static_cast<size_t>(t) * k;
    const std::span<int32_t> slots = std::span(routing.chosen).subspan(first, k);
    Sorted sorted{slot.subspan(first, k), weight.subspan(first, k), feature.subspan(first, k)};
    sorted.fill(*this, z[t], slots);
    const auto stay = static_cast<size_t>(kept(sorted.weight, sorted.feature));
    for (size_t i = stay; i < sorted.slot.size(); ++i) slots[static_cast<size_t>(sorted.slot[i])] = -1;
  });
}

}  // namespace choir::moe
