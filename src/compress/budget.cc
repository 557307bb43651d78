#include "compress/budget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "base/error.h"
#include "compress/kept_counts.h"

namespace choir::compress {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

bool allowed(const LayerCurve& layer, int count, int slack) {
  return count >= std::max(layer.least, std::min(layer.rule.k + slack, layer.experts())) &&
         std::isfinite(layer.loss[static_cast<size_t>(count)]) && misfit(layer.rule, layer.experts(), count).empty();
}

int64_t cost_of(const LayerCurve& layer, Budget::Of of) { return of == Budget::Of::kExperts ? 1 : layer.bytes; }

int64_t total_cost(std::span<const LayerCurve> layers, const std::vector<int>& counts, Budget::Of of) {
  int64_t sum = 0;
  for (size_t l = 0; l < layers.size(); ++l) sum += counts[l] * cost_of(layers[l], of);
  return sum;
}

// The smallest allowed counts; checks that there are some, and that they fit.
std::vector<int> floors(std::span<const LayerCurve> layers, const Budget& budget) {
  CHOIR_CHECK(!layers.empty(), "layers to share a budget");
  std::vector<int> counts;
  for (size_t l = 0; l < layers.size(); ++l) {
    CHOIR_CHECK(std::ranges::none_of(layers[l].loss, [](double v) { return std::isnan(v); }), "losses are numbers");
    int count = 1;
    while (count <= layers[l].experts() && !allowed(layers[l], count, budget.slack)) ++count;
    if (count > layers[l].experts())
      base::usage_error("no count of experts is allowed and has a known loss", "layer " + std::to_string(l),
                        "lower the slack, or search this layer for more counts");
    counts.push_back(count);
  }
  const char* unit = budget.of == Budget::Of::kExperts ? " experts" : " bytes of experts";
  if (const int64_t needed = total_cost(layers, counts, budget.of); needed > budget.total)
    base::usage_error("a budget of " + std::to_string(budget.total) + unit, "budget",
                      "the layers need " + std::to_string(needed) + " at least");
  return counts;
}

// The knapsack in cells of `unit`.
struct Table {
  int64_t unit = 1;
  size_t cells = 0;  // of the budget; index 0 .. cells

  Table(std::span<const LayerCurve> layers, const Budget& budget) {
    constexpr int64_t kMostCells = 1 << 18;
    int64_t all = 0, divisor = 0;
    for (const LayerCurve& layer : layers) {
      all += layer.experts() * cost_of(layer, budget.of);
      divisor = std::gcd(divisor, cost_of(layer, budget.of));
    }
    const int64_t total = std::min(all, budget.total);
    unit = std::max<int64_t>({divisor, 1, (total + kMostCells - 1) / kMostCells});
    cells = static_cast<size_t>(total / unit);
  }
  size_t cost(const LayerCurve& layer, int count, Budget::Of of) const {
    return static_cast<size_t>((count * cost_of(layer, of) + unit - 1) / unit);
  }
};

// (C34) F_l(c) = min over r of F_(l-1)(c - cost(r)) + J_l(r). Empty when rounding leaves no way.
std::vector<int> cheapest(std::span<const LayerCurve> layers, const Budget& budget) {
  const Table table(layers, budget);
  std::vector<double> best(table.cells + 1, 0.0), next(table.cells + 1);
  std::vector<std::vector<int16_t>> taken(layers.size(), std::vector<int16_t>(table.cells + 1, 0));
  for (size_t l = 0; l < layers.size(); ++l) {
    std::ranges::fill(next, kInfinite);
    for (int r = 1; r <= layers[l].experts(); ++r) {
      if (!allowed(layers[l], r, budget.slack)) continue;
      const double loss = layers[l].loss[static_cast<size_t>(r)];
      for (size_t c = table.cost(layers[l], r, budget.of); c <= table.cells; ++c) {
        const double sum = best[c - table.cost(layers[l], r, budget.of)] + loss;
        if (!(sum < next[c])) continue;
        next[c] = sum;
        taken[l][c] = static_cast<int16_t>(r);
      }
    }
    std::swap(best, next);
  }
  std::vector<int> counts(layers.size());
  size_t cell = table.cells;
  if (!std::isfinite(best[cell])) return {};
  for (size_t l = layers.size(); l-- > 0;) {
    counts[l] = taken[l][cell];
    cell -= table.cost(layers[l], counts[l], budget.of);
  }
  return counts;
}

std::vector<int> best_uniform(std::span<const LayerCurve> layers, const Budget& budget) {
  int count = std::ranges::min(layers, {}, &LayerCurve::experts).experts();
  for (; count > 0; --count) {
    std::vector<int> counts(layers.size(), count);
    const auto fits = [&](const LayerCurve& layer) { return allowed(layer, count, budget.slack); };
    if (std::ranges::all_of(layers, fits) && total_cost(layers, counts, budget.of) <= budget.total) return counts;
  }
  return {};
}

double weighted(std::span<const double> weight, int t) { return weight.empty() ? 1 : weight[static_cast<size_t>(t)]; }

}  // namespace

double output_energy(const LayerRecord& record, std::span<const double> weight) {
  double sum = 0;
  for (int t = 0; t < record.tokens(); ++t)
    sum += weighted(weight, t) * squared_error(record, t, own_choice(record, t), {});
  return sum;
}

double residual_energy(const LayerRecord& record, std::span<const double> weight) {
  double sum = 0;
  for (int t = 0; t < record.tokens(); ++t) sum += weighted(weight, t) * record.residual[static_cast<size_t>(t)];
  return sum;
}

int64_t expert_bytes(const Model& model, int layer) {
  const auto& moe = model.tensors().blocks[static_cast<size_t>(layer)].moe;
  size_t most = 0, gate = 0;
  for (size_t e = 0; e < moe.w1.size(); ++e) {
    size_t own = moe.w1[e].bytes() + moe.w2[e].bytes() + moe.w3[e].bytes();
    if (!moe.b1.empty()) own += moe.b1[e].bytes() + moe.b2[e].bytes() + moe.b3[e].bytes();
    most = std::max(most, own);
  }
  for (const auto& tensor : moe.gate) gate += tensor.bytes() / static_cast<size_t>(moe.experts());
  return static_cast<int64_t>(most + gate);
}

namespace {

std::vector<int> allocate_among(std::span<const LayerCurve> layers, const Budget& budget) {
  const std::vector<int> least = floors(layers, budget);
  std::vector<int> best = cheapest(layers, budget);
  if (best.empty()) best = least;
  const std::vector<int> uniform = best_uniform(layers, budget);
  const bool worse = !uniform.empty() && total_loss(layers, uniform) < total_loss(layers, best);
  return worse ? uniform : best;  // only where costs were rounded up
}

std::vector<int> uniform_among(std::span<const LayerCurve> layers, const Budget& budget) {
  floors(layers, budget);
  std::vector<int> counts = best_uniform(layers, budget);
  if (counts.empty())
    base::usage_error("no count suits all layers within the budget", "budget",
                      "raise it, or let the layers keep different numbers");
  return counts;
}

// Layers without experts take nothing.
template <class Among>
std::vector<int> with_dense(std::span<const LayerCurve> layers, const Budget& budget, const Among& among) {
  std::vector<LayerCurve> some;
  for (const LayerCurve& layer : layers)
    if (layer.experts() > 0) some.push_back(layer);
  const std::vector<int> counts = among(some, budget);
  std::vector<int> all;
  size_t next = 0;
  for (const LayerCurve& layer : layers) all.push_back(layer.experts() > 0 ? counts[next++] : 0);
  return all;
}

}  // namespace

std::vector<int> allocate(std::span<const LayerCurve> layers, const Budget& budget) {
  return with_dense(layers, budget, allocate_among);
}

std::vector<int> allocate_uniform(std::span<const LayerCurve> layers, const Budget& budget) {
  return with_dense(layers, budget, uniform_among);
}

double total_loss(std::span<const LayerCurve> layers, const std::vector<int>& counts) {
  double sum = 0;
  for (size_t l = 0; l < layers.size(); ++l) sum += layers[l].loss[static_cast<size_t>(counts[l])];
  return sum;
}

}  // namespace choir::compress
