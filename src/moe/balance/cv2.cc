#include "moe/balance/cv2.h"

#include "moe/balance/smooth_load.h"

namespace choir::moe {
namespace {

std::vector<double> importance(const Plan& plan) {
  std::vector<double> sums(static_cast<size_t>(plan.experts()));
  for (size_t e = 0; e < sums.size(); ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) sums[e] += static_cast<double>(plan.weight[i]);
  return sums;
}

struct Spread {
  double mean = 0, variance = 0;

  explicit Spread(const std::vector<double>& of) {
    const auto experts = static_cast<double>(of.size());
    for (const double v : of) mean += v / experts;
    for (const double v : of) variance += (v - mean) * (v - mean) / experts;
  }
  bool none() const { return !(mean * mean > 0); }
};

}  // namespace

Cv2 Cv2::read(Arguments& arguments) {
  Cv2 word;
  word.c = static_cast<float>(arguments.number("c", 0, 1000));
  word.of_load = arguments.name("of", {"importance", "load"}) == "load";
  return word;
}

double Cv2::loss(const Context& context, const Routing& routing) const {
  if (of_load && context.rule == Rule::kDecode) return 0;
  const Spread spread(of_load ? smooth_load(context, routing) : importance(routing.plan));
  return spread.none() ? 0 : static_cast<double>(c) * spread.variance / (spread.mean * spread.mean);
}

// dI_e = 2 c / (E m^2) (I_e - m - Var / m), m the mean of I; of importance that is dg_te for every kept edge, and
// padding has none.
void Cv2::backward(const Context& context, const Routing& routing, const BalanceGradient& gradient) const {
  if (of_load && context.rule == Rule::kDecode) return;
  std::vector<double> sums = of_load ? smooth_load(context, routing) : importance(routing.plan);
  const Spread spread(sums);
  if (spread.none()) return;
  const double m = spread.mean, scale = 2 * static_cast<double>(c * gradient.scale) / (context.experts * m * m);
  for (double& d : sums) d = scale * (d - m - spread.variance / m);
  if (of_load) return smooth_load_backward(context, routing, sums, gradient);
  const Plan& plan = routing.plan;
  for (int e = 0; e < plan.experts(); ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i)
      gradient.dweight[i] += static_cast<float>(sums[static_cast<size_t>(e)]);
}

}  // namespace choir::moe
