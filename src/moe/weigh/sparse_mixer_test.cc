#include "moe/weigh/sparse_mixer.h"

#include <doctest/doctest.h>

#include <complex>

#include "moe/reference/route_case.h"
#include "moe/reference/weights.h"
#include "moe/reference/words.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

// Routes the logits z (N,E) as they are: tokens z, and a gate that picks channel e for expert e.
struct Routed : reference::Routed {
  Routed(const std::string& weights, const std::vector<double>& z, int e)
      : reference::Routed("linear > top_k(2) > all > " + weights, static_cast<int>(z.size()) / e, e, e) {
    x = reference::narrow(z);
    for (int i = 0; i < e * e; ++i) tensor[0][size_t(i)] = i / e == i % e ? 1.0f : 0.0f;
    route();
  }
  double weight(size_t slot) const { return double(routing.plan.weight[size_t(routing.plan.edge[slot])]); }
};

TEST_CASE("sparsemixer: text and ranges, and what it goes with") {
  reference::check_text<SparseMixer>({"sparsemixer(0.01)", "sparsemixer(0.25)"},
                                     {"sparsemixer(2)", "sparsemixer(-1)", "sparsemixer(0.1, 2)"});
  for (const std::string text :
       {"linear > top_k(3) > all > sparsemixer", "linear > top_k(1) > all > sparsemixer",
        "linear > top_k(2) > skip(0.5) > sparsemixer", "linear > top_k(2) > fifo(factor(1)) > sparsemixer",
        "linear > groups(2, 1, 2) > all > sparsemixer"})
    CHECK_THROWS_AS(parse_router(text), base::Error);
  CHECK(parse_router("linear > top_k(2) > all > sparsemixer").expression() ==
        "linear > top_k(2) > all > sparsemixer(0.01)");
}

TEST_CASE("sparsemixer: choices and weights agree with the two rounds of the reference") {
  constexpr int kTokens = 150, kExperts = 8;
  for (const float eps : {0.01f, 0.1f, 0.5f})
    for (const double scale : {1e-3, 1.0, 20.0})
      for (const double shift : {-3.0, 0.0, 3.0}) {  // all below 0, all above: then logits are near one another
        CAPTURE(eps);
        CAPTURE(scale);
        CAPTURE(shift);
        auto z = reference::with_ties(reference::random(kTokens * kExperts, scale, 7));
        for (double& v : z) v = double(float(v + shift * scale));
        const Routed r("sparsemixer(" + written(eps) + ")", z, kExperts);
        for (size_t t = 0; t < kTokens; ++t) {
          const auto rounds = reference::sparse_mixer(reference::row_of(z, t, kExperts), double(eps));
          for (size_t s = 0; s < 2; ++s) {
            CHECK(r.routing.chosen[2 * t + s] == rounds[s].first);
            CHECK(r.weight(2 * t + s) == doctest::Approx(rounds[s].second).epsilon(1e-5));
          }
        }
      }
}

// eps 0.1. Token 0: of 2 only 1.9 and 1.7 are near, 1.5 / 2 is beyond 0.2; without 2 the limit is 0.2 of 1.9.
TEST_CASE("sparsemixer: worked by hand") {
  const Routed r("sparsemixer(0.1)", {2, 1.5, 1.9, 1.7, -2, -2.2, -1, -4, 0, 0, -1, -3}, 4);
  CHECK(r.routing.chosen == std::vector<int32_t>{0, 2, 2, 0, 0, 1});
  const auto term = [](double difference) { return std::exp(-difference); };
  CHECK(r.weight(0) == doctest::Approx(1 / (1 + term(0.1) + term(0.3))));
  CHECK(r.weight(1) == doctest::Approx(1 / (1 + term(0.2))));
  // Below 0 the factor is |z_j|: (-1 + 2) / 2 is beyond, and (-2 + 2.2) / 2.2 is not.
  CHECK(r.weight(2) == 1);
  CHECK(r.weight(3) == doctest::Approx(1 / (1 + term(0.2))));
  // At 0 the quotient of equal ones is 0 / 0, which is near; (0 + 1) / 1 is not.
  CHECK(r.weight(4) == doctest::Approx(0.5));
  CHECK(r.weight(5) == 1);
}

TEST_CASE("sparsemixer: on normal logits the weights mostly sum to 2, which no softmax of the chosen does") {
  constexpr int kTokens = 4000, kExperts = 16;
  const auto z = reference::random(kTokens * kExperts, 1, 5);
  const Routed r("sparsemixer(0.01)", z, kExperts), plain("chosen", z, kExperts);
  double mean = 0;
  int twos = 0;
  for (size_t t = 0; t < kTokens; ++t) {
    const double sum = r.weight(2 * t) + r.weight(2 * t + 1);
    mean += sum / kTokens;
    twos += sum == 2;
    CHECK(plain.weight(2 * t) + plain.weight(2 * t + 1) == doctest::Approx(1));
  }
  CHECK(std::abs(mean - 1.94) < 0.01);  // a simulation of the published code
  CHECK(std::abs(twos / double(kTokens) - 0.89) < 0.015);
}

// What is near stays near along the step, for it is judged by the real parts.
TEST_CASE("sparsemixer: the backward is the derivative of the weights with the choices held fixed") {
  constexpr int kTokens = 20, kExperts = 6;
  for (const float eps : {0.01f, 0.2f, 0.6f}) {
    CAPTURE(eps);
    const auto z = reference::random(kTokens * kExperts, 2, 3), dg = reference::random(2 * kTokens, 1, 4);
    Routed r("sparsemixer(" + written(eps) + ")", z, kExperts);
    std::vector<float> dweight(2 * kTokens), dz(z.size(), 1);
    for (size_t i = 0; i < dg.size(); ++i) dweight[size_t(r.routing.plan.edge[i])] = float(dg[i]);
    SparseMixer{eps}.backward(r.context(), r.routing, dweight, reference::matrix(dz, kExperts));
    const auto derivative = complex_step(z, [&](const std::vector<std::complex<double>>& at) {
      std::complex<double> loss = 0;
      for (size_t t = 0; t < kTokens; ++t) {
        const auto rounds = reference::sparse_mixer(reference::row_of(at, t, kExperts), double(eps));
        for (size_t s = 0; s < 2; ++s) loss += dg[2 * t + s] * rounds[s].second;
      }
      return loss;
    });
    for (size_t i = 0; i < z.size(); ++i) CHECK(std::abs(derivative[i] + 1 - double(dz[i])) < 2e-6);
  }
}

TEST_CASE("sparsemixer: padding has no weights, and equal logits share them") {
  Routed r("sparsemixer(0.01)", std::vector<double>(12, 1.0), 4);
  CHECK(r.routing.chosen == std::vector<int32_t>{0, 1, 0, 1, 0, 1});
  for (size_t t = 0; t < 3; ++t) {
    CHECK(r.weight(2 * t) == doctest::Approx(1.0 / 4));
    CHECK(r.weight(2 * t + 1) == doctest::Approx(1.0 / 3));
  }
  r.padding = {0, 1, 0};
  CHECK(r.route().plan.edges() == 4);
}

}  // namespace
}  // namespace choir::moe
