#include "moe/weigh/chosen.h"

#include <doctest/doctest.h>

#include "moe/reference/data.h"
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
      Plan plan;
      build_plan(p.chosen, kTokens, kChoices, kExperts, plan);
      const auto z = reference::narrow(p.z);
      weigh.forward(reference::matrix(z, kExperts), plan);
      CHECK(reference::error(p.weights(), by_slot(plan)) < 1e-5);

      std::vector<float> dweight(plan.token.size()), dz(p.z.size(), 1.0f);
      for (size_t i = 0; i < p.dg.size(); ++i)
        if (plan.edge[i] >= 0) dweight[plan.edge[i]] = static_cast<float>(p.dg[i]);
      weigh.backward(dweight, plan, reference::matrix(dz, kExperts));
      for (float& d : dz) d -= 1;  // the backward adds to what is there
      const auto want = reference::chosen_weights_backward(p.dg, p.weights(), p.chosen, kExperts, kChoices);
      // A difference of numbers of the order of dg, which is 1: its error is measured against those.
      for (size_t i = 0; i < want.size(); ++i) CHECK(std::abs(want[i] - static_cast<double>(dz[i])) < 1e-6);
    }
}

TEST_CASE("chosen: the weights of a token sum to 1, and one expert alone has weight 1 and no gradient") {
  const Problem p(3, 0);
  Plan plan;
  build_plan(p.chosen, kTokens, kChoices, kExperts, plan);
  const auto z = reference::narrow(p.z);
  ChosenWeights{}.forward(reference::matrix(z, kExperts), plan);
  const auto g = by_slot(plan);
  for (int t = 0; t < kTokens; ++t) CHECK(g[3 * t] + g[3 * t + 1] + g[3 * t + 2] == doctest::Approx(1).epsilon(1e-6));

  build_plan({4, 2}, 2, 1, kExperts, plan);
  ChosenWeights{}.forward(reference::matrix(z, kExperts).slice_rows(0, 2), plan);
  CHECK(plan.weight == std::vector<float>{1, 1});
  std::vector<float> dz(2 * kExperts);
  ChosenWeights{}.backward(std::vector<float>{3, -7}, plan, reference::matrix(dz, kExperts));
  CHECK(dz == std::vector<float>(dz.size()));
}

}  // namespace
}  // namespace choir::moe
