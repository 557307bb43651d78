#include "moe/weigh/chosen.h"

#include <doctest/doctest.h>

#include "moe/reference/case.h"
#include "moe/reference/route_case.h"
#include "moe/reference/weigh_case.h"
#include "moe/reference/words.h"

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

// e^z_e over the sum of e^z over the k largest z of the token.
template <class S>
std::vector<S> over_best(const std::vector<S>& z, const reference::Choices& c, size_t k) {
  std::vector<S> all(z.size());
  for (size_t t = 0; t < c.tokens(); ++t) {
    std::vector<S> row = reference::row_of(z, t, c.experts), sorted = row;
    std::ranges::sort(sorted, [](const S& a, const S& b) { return reference::real_part(a) > reference::real_part(b); });
    S sum = 0;
    for (size_t i = 0; i < k; ++i) sum += std::exp(sorted[i] - reference::real_part(sorted[0]));
    for (size_t e = 0; e < c.experts; ++e)
      all[t * c.experts + e] = std::exp(row[e] - reference::real_part(sorted[0])) / sum;
  }
  return reference::at_slots(all, c);
}

TEST_CASE("chosen over the k best: forward and backward agree with the reference, whatever was kept") {
  for (const int over : {1, 2, 3, 5, 6})
    for (const reference::Kind kind : reference::kKinds) {
      CAPTURE(over);
      reference::check_weights(ChosenWeights{{over}}, kind, [&](const auto& z, const auto& c) {
        return over_best(z, c, static_cast<size_t>(over));
      });
    }
}

TEST_CASE("chosen over the k best: by the keys where a bias moves them, softmax(renorm) where k is that of top_k") {
  reference::Routed biased("linear > top_k(2) > all > chosen(over=3) + bias(0.1)", 30, 8, kExperts);
  for (size_t e = 0; e < biased.state.size(); ++e) biased.state[e] = e == 5 ? 40.0f : 0;
  biased.route();
  for (int t = 0; t < 30; ++t) {
    const float* z = biased.routing.scores(kExperts)[t];
    std::vector<double> p;
    for (int e = 0; e < 5; ++e) p.push_back(std::exp(static_cast<double>(z[e])));
    const double fifth = std::exp(static_cast<double>(z[5]));
    std::ranges::sort(p, std::greater<>());
    const int32_t edge = biased.routing.plan.edge[2 * static_cast<size_t>(t)];
    CHECK(biased.routing.chosen[2 * static_cast<size_t>(t)] == 5);
    CHECK(biased.routing.plan.weight[edge] == doctest::Approx(fifth / (fifth + p[0] + p[1])).epsilon(1e-5));
  }
  reference::Routed over("linear > top_k(3) > skip(tail=0.4) > chosen(over=3)", 200, 8, kExperts),
      renorm("linear > top_k(3) > skip(tail=0.4) > softmax(renorm)", 200, 8, kExperts);
  over.route();
  renorm.route();
  CHECK(over.routing.chosen == renorm.routing.chosen);
  CHECK(over.routing.plan.weight == renorm.routing.plan.weight);
}

TEST_CASE("chosen over the k best of the token's groups") {
  reference::Routed some("linear > groups(3, 2, 2) > all > chosen(over=4)", 50, 8, kExperts),
      all("linear > groups(3, 2, 2) > all > softmax", 50, 8, kExperts);
  some.route();
  all.route();
  for (int t = 0; t < 50; ++t) {
    const float* z = some.routing.scores(kExperts)[t];
    std::vector<std::pair<float, int>> groups;
    for (int g = 0; g < 3; ++g) groups.push_back({std::max(z[2 * g], z[2 * g + 1]), g});
    std::ranges::sort(groups, std::greater<>());
    double mass = 0;
    for (int g = 0; g < 2; ++g)
      for (int i = 0; i < 2; ++i) mass += std::exp(static_cast<double>(z[2 * groups[g].second + i]));
    for (const size_t slot : {2 * static_cast<size_t>(t), 2 * static_cast<size_t>(t) + 1}) {
      const int32_t e = some.routing.chosen[slot];
      CHECK(e == all.routing.chosen[slot]);
      CHECK(some.routing.plan.weight[some.routing.plan.edge[slot]] ==
            doctest::Approx(std::exp(static_cast<double>(z[e])) / mass).epsilon(1e-5));
    }
  }
  CHECK(parse_router("linear > groups(3, 2, 2) > all > chosen(over=4)").misfit(6, 8).empty());
  CHECK(!parse_router("linear > groups(3, 2, 2) > all > chosen(over=5)").misfit(6, 8).empty());
}

TEST_CASE("chosen: texts and ranges; over the best it goes with top_k or groups, and enough experts") {
  reference::check_text<ChosenWeights>({"chosen", "chosen(over=6)"}, {"chosen(over=0)", "chosen(1.5)", "chosen(1, 2)"});
  CHECK_THROWS_AS(parse_router("linear > positive > all > chosen(over=3)"), base::Error);
  CHECK(parse_router("linear > top_k(2) > all > chosen(over=9)").misfit(9, 4).empty());
  CHECK(!parse_router("linear > top_k(2) > all > chosen(over=9)").misfit(8, 4).empty());
}

}  // namespace
}  // namespace choir::moe
