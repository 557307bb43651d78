#include "moe/balance/cv2.h"

namespace choir::moe {
namespace {

struct Importance {
  std::vector<double> of;  // [E]
  double mean = 0, variance = 0;

  explicit Importance(const Plan& plan) {
    for (int e = 0; e < plan.experts(); ++e) {
      double sum = 0;
      for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) sum += static_cast<double>(plan.weight[i]);
      of.push_back(sum);
      mean += sum / plan.experts();
    }
    for (const double sum : of) variance += (sum - mean) * (sum - mean) / plan.experts();
  }
};

}  // namespace

Cv2 Cv2::read(Arguments& arguments) { return {static_cast<float>(arguments.number("c", 0, 1000))}; }

double Cv2::loss(const Context&, const Routing& routing) const {
  const Importance importance(routing.plan);
  const double square = importance.mean * importance.mean;
  return square > 0 ? static_cast<double>(c) * importance.variance / square : 0;
}

// dg_te = 2 c / (E m^2) (I_e - m - Var / m), m the mean of I, for every kept edge; padding has none.
void Cv2::backward(const Context&, const Routing& routing, const BalanceGradient& gradient) const {
  const Plan& plan = routing.plan;
  const Importance importance(plan);
  const double m = importance.mean;
  if (!(m * m > 0)) return;
  const double scale = 2 * static_cast<double>(c * gradient.scale) / (plan.experts() * m * m);
  for (int e = 0; e < plan.experts(); ++e) {
    const double d = scale * (importance.of[static_cast<size_t>(e)] - m - importance.variance / m);
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) gradient.dweight[i] += static_cast<float>(d);
  }
}

}  // namespace choir::moe
