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
  Matrix<float> clean, spread;

  Gates(const Context& context, base::Frame& frame)
      : clean(matrix_in(frame, context.tokens.rows(), context.experts)),
        spread(matrix_in(frame, context.tokens.rows(), context.experts)) {
    kernels::gemm_forward(context.tokens.x, context.tensors[0], clean, context.threads);
    kernels::gemm_forward(context.tokens.x, context.tensors[1], spread, context.threads);
  }
};

// One expert of one token.
struct Chance {
  int32_t expert, bar;  // the latter is the k-th best of the other experts; -1: there are fewer
  double deviation;     // of the noise
  double u;             // (clean score - what the bar's score is) / deviation: Phi(u) is the chance
};

// Calls body(t, chance) for every token that counts and every expert that is not masked. Keys may differ from scores by
// a selection bias, which moves both sides of the comparison.
template <class Body>
void each_chance(const Context& context, const Routing& routing, const Gates& gates, const Body& body) {
  const Matrix<const float> key = routing.compared(context.tokens.rows(), context.experts);
  const Matrix<const float> score = routing.scores(context.experts);
  each_row<int32_t>(context, key, [&](int t, std::span<int32_t> room) {
    if (!context.tokens.counts(t)) return;
    Ranking ranking(room, key.row(t));
    int32_t last = -1;  // of the chosen
    for (int s = 0; s < routing.plan.choices; ++s) last = ranking.next();
    const int32_t next = ranking.next();
    for (int32_t e = 0; e < context.experts; ++e) {
      const float mine = key[t][e];
      if (mine == -HUGE_VALF) continue;
      const bool inside = !std::isnan(mine) && (last < 0 || mine > key[t][last] || (mine == key[t][last] && e <= last));
      Chance chance{e, inside ? next : last, 0, HUGE_VAL};
      // The tiny number is that of the published code, for noise that has died out.
      chance.deviation = static_cast<double>(softplus(gates.spread[t][e])) + 1e-20;
      const auto wide = [](float v) { return static_cast<double>(v); };
      const double shift = wide(mine) - wide(score[t][e]);
      if (chance.bar >= 0) chance.u = (wide(gates.clean[t][e]) + shift - wide(key[t][chance.bar])) / chance.deviation;
      body(t, chance);
    }
  });
}

}  // namespace

std::vector<double> smooth_load(const Context& context, const Routing& routing) {
  base::Frame frame(context.threads);
  const Gates gates(context, frame);
  std::vector<double> load(static_cast<size_t>(context.experts));
  const std::span<double> chances = frame.list<double>(context.pairs());
  each_chance(context, routing, gates, [&](int t, const Chance& c) {
    chances[static_cast<size_t>(t) * load.size() + static_cast<size_t>(c.expert)] =
        std::erfc(-c.u / std::numbers::sqrt2) / 2;
  });
  for (size_t i = 0; i < chances.size(); ++i) load[i % load.size()] += chances[i];
  return load;
}

// With phi the normal density, s the deviation and d = dload_e phi(u) / s: d by the clean score, -d u by s, whose slope
// is the logistic function, and -d by the score of the bar.
void smooth_load_backward(const Context& context, const Routing& routing, const std::vector<double>& dload,
                          const BalanceGradient& gradient) {
  base::Frame frame(context.threads);
  const Gates gates(context, frame);
  const int rows = context.tokens.rows();
  const Matrix<float> clean = matrix_in(frame, rows, context.experts), spread = matrix_in(frame, rows, context.experts);
  each_chance(context, routing, gates, [&](int t, const Chance& c) {
    if (c.bar < 0) return;
    const double density = std::exp(-c.u * c.u / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
    const double d = dload[static_cast<size_t>(c.expert)] * density / c.deviation;
    clean[t][c.expert] = static_cast<float>(d);
    spread[t][c.expert] = static_cast<float>(-d * c.u * static_cast<double>(logistic(gates.spread[t][c.expert])));
    gradient.dz[t][c.bar] -= static_cast<float>(d);
  });
  const ScoreGradient through{gradient.dx, gradient.tensors, {}};
  gate_backward(context, 0, clean, through);
  gate_backward(context, 1, spread, through);
}

}  // namespace choir::moe
