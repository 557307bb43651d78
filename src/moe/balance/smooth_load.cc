#include "moe/balance/smooth_load.h"

#include <numbers>

#include "kernels/gemm.h"
#include "moe/logistic.h"
#include "moe/propose/ranking.h"
#include "moe/score/linear.h"

namespace choir::moe {
namespace {

// x w^T, the scores without their noise, and x v^T, whose softplus is the noise's deviation; (N,E).
struct Gates {
  Buffer<float> clean, spread;

  explicit Gates(const Context& context) : clean(context.pairs()), spread(context.pairs()) {
    const int rows = context.tokens.rows(), experts = context.experts;
    kernels::gemm_forward(context.tokens.x, context.tensors[0], clean.matrix(rows, experts), context.threads);
    kernels::gemm_forward(context.tokens.x, context.tensors[1], spread.matrix(rows, experts), context.threads);
  }
};

// One expert of one token.
struct Chance {
  size_t pair;       // t E + e
  int32_t bar;       // the k-th best of the other experts; -1: there are fewer
  double deviation;  // of the noise
  double u;          // (clean score - what the bar's score is) / deviation: Phi(u) is the chance
};

// Calls body(t, chance) for every token that counts and every expert that is not masked. Keys may differ from scores by
// a selection bias, which moves both sides of the comparison.
template <class Body>
void each_chance(const Context& context, const Routing& routing, const Gates& gates, const Body& body) {
  const Matrix<const float> key = routing.compared(context.tokens.rows(), context.experts);
  const size_t k = static_cast<size_t>(routing.plan.choices);
  each_row<Ranking>(context, key, [&](int t, Ranking& ranking) {
    if (!context.tokens.counts(t)) return;
    ranking.begin(key.row(t));
    std::vector<int32_t> best(k + 1);
    for (int32_t& e : best) e = ranking.next();
    for (int32_t e = 0; e < context.experts; ++e) {
      if (key[t][e] == -HUGE_VALF) continue;
      const bool inside = std::find(best.begin(), best.end() - 1, e) < best.end() - 1;
      Chance chance{static_cast<size_t>(t) * context.experts + e, inside ? best[k] : best[k - 1], 0, HUGE_VAL};
      // The tiny number is that of the published code, for noise that has died out.
      chance.deviation = static_cast<double>(softplus(gates.spread[chance.pair])) + 1e-20;
      const auto wide = [](float v) { return static_cast<double>(v); };
      const double shift = wide(key[t][e]) - wide(routing.score[chance.pair]);
      if (chance.bar >= 0)
        chance.u = (wide(gates.clean[chance.pair]) + shift - wide(key[t][chance.bar])) / chance.deviation;
      body(t, chance);
    }
  });
}

}  // namespace

std::vector<double> smooth_load(const Context& context, const Routing& routing) {
  const Gates gates(context);
  std::vector<double> chances(context.pairs()), load(static_cast<size_t>(context.experts));
  each_chance(context, routing, gates,
              [&](int, const Chance& c) { chances[c.pair] = std::erfc(-c.u / std::numbers::sqrt2) / 2; });
  for (size_t i = 0; i < chances.size(); ++i) load[i % load.size()] += chances[i];
  return load;
}

// With phi the normal density, s the deviation and d = dload_e phi(u) / s: d by the clean score, -d u by s, whose slope
// is the logistic function, and -d by the score of the bar.
void smooth_load_backward(const Context& context, const Routing& routing, const std::vector<double>& dload,
                          const BalanceGradient& gradient) {
  const Gates gates(context);
  const Buffer<float> clean(context.pairs()), spread(context.pairs());
  each_chance(context, routing, gates, [&](int t, const Chance& c) {
    if (c.bar < 0) return;
    const double density = std::exp(-c.u * c.u / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
    const double d = dload[c.pair % dload.size()] * density / c.deviation;
    clean[c.pair] = static_cast<float>(d);
    spread[c.pair] = static_cast<float>(-d * c.u * static_cast<double>(logistic(gates.spread[c.pair])));
    gradient.dz[t][c.bar] -= static_cast<float>(d);
  });
  const int rows = context.tokens.rows();
  const ScoreGradient through{gradient.dx, gradient.tensors, {}};
  gate_backward(context, 0, clean.matrix(rows, context.experts), through);
  gate_backward(context, 1, spread.matrix(rows, context.experts), through);
}

}  // namespace choir::moe
