#include "moe/weigh/chosen.h"

#include <doctest/doctest.h>

#include "moe/reference/case.h"
#include "moe/reference/layer.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 12, kExperts = 6, kChoices = 3;

struct Problem {
  std::vector<double> z, dg;
  std::vector<int32_t> chosen;

  Problem(double scale, double dropped)
      : z(reference::random(kTokens * kExperts, scale, 1)),
        dg(reference::random(kTokens * kChoices, 1, 2)),
        chosen(reference::random_choices(kTokens, kChoices, kExperts, dropped, 3)) {}

  std::vector<double> weights() const { return reference::chosen_weights(z, chosen, kExperts, kChoices); }
};

// A routing with these scores and choices.
struct Routed : reference::Case {
  Routed(const std::vector<float>& z, const std::vector<int32_t>& chosen)
      : Case(static_cast<int>(z.size()) / kExperts, 1, kExperts) {
    set_scores(z);
    set_choices(chosen, chosen);
  }
};

// The weights of a Plan, by token and slot.
std::vector<float> by_slot(const Plan& plan) {
  std::vector<float> g(plan.edge.size());
  for (size_t i = 0; i < g.size(); ++i)
    if (plan.edge[i] >= 0) g[i] = plan.weight[plan.edge[i]];
  return g;
}

TEST_CASE("chosen: the double backward agrees with the complex step") {
  for (const double dropped : {0.0, 0.4}) {
    const Problem p(2, dropped);
    const auto derivative = complex_step(p.z, [&](const std::vector<std::complex<double>>& z) {
      const auto g = reference::chosen_weights(z, p.chosen, kExperts, kChoices);
      std::complex<double> loss = 0;
      for (size_t i = 0; i < g.size(); ++i) loss += p.dg[i] * g[i];
      return loss;
    });
    const auto dz = reference::chosen_weights_backward(p.dg, p.weights(), p.chosen, kExperts, kChoices);
    CHECK(reference::error(derivative, dz) < 1e-12);
  }
}

TEST_CASE("chosen: forward and backward agree with the reference at several scales of logits") {
  const ChosenWeights weigh;
  for (const double scale : {1e-3, 1.0, 10.0, 100.0})
    for (const double dropped : {0.0, 0.4, 1.0}) {
      CAPTURE(scale);
      CAPTURE(dropped);
      const Problem p(scale, dropped);
      Routed r(reference::narrow(p.z), p.chosen);
      const Plan& plan = r.routing.plan;
      weigh.forward(r.context(), r.routing);
      CHECK(reference::error(p.weights(), by_slot(plan)) < 1e-5);

      std::vector<float> dweight(plan.token.size()), dz(p.z.size(), 1.0f);
      for (size_t i = 0; i < p.dg.size(); ++i)
        if (plan.edge[i] >= 0) dweight[plan.edge[i]] = static_cast<float>(p.dg[i]);
      weigh.backward(r.context(), r.routing, dweight, reference::matrix(dz, kExperts));
      for (float& d : dz) d -= 1;  // the backward adds to what is there
      const auto want = reference::chosen_weights_backward(p.dg, p.weights(), p.chosen, kExperts, kChoices);
      // A difference of numbers of the order of dg, which is 1: its error is measured against those.
      for (size_t i = 0; i < want.size(); ++i) CHECK(std::abs(want[i] - static_cast<double>(dz[i])) < 1e-6);
    }
}

TEST_CASE("chosen: the weights of a token sum to 1, and one expert alone has weight 1 and no gradient") {
  const Problem p(3, 0);
  Routed r(reference::narrow(p.z), p.chosen);
  ChosenWeights{}.forward(r.context(), r.routing);
  const auto g = by_slot(r.routing.plan);
  for (int t = 0; t < kTokens; ++t) CHECK(g[3 * t] + g[3 * t + 1] + g[3 * t + 2] == doctest::Approx(1).epsilon(1e-6));

  const auto z = reference::narrow(p.z);
  Routed two({z.begin(), z.begin() + 2 * kExperts}, {4, 2});
  ChosenWeights{}.forward(two.context(), two.routing);
  CHECK(two.routing.plan.weight == std::vector<float>{1, 1});
  std::vector<float> dz(2 * kExperts);
  ChosenWeights{}.backward(two.context(), two.routing, std::vector<float>{3, -7}, reference::matrix(dz, kExperts));
  CHECK(dz == std::vector<float>(dz.size()));
}

}  // namespace
}  // namespace choir::moe
