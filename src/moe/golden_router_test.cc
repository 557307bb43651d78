// The router of six tokens and two experts that is worked out by hand, through whole expressions.
#include <doctest/doctest.h>

#include "moe/reference/route_case.h"
#include "moe/reference/score_case.h"

namespace choir::moe {
namespace {

using reference::Routed;
using Numbers = std::vector<int32_t>;

constexpr double kWithin = 6e-7;  // half a unit of the last digit, and a little

struct Golden : Routed {
  explicit Golden(const std::string& admit, const std::string& balance = "")
      : Routed("grap_cosine > top_k(1) > " + admit + " > softmax" + balance, 6, 4, 2) {
    x = {1, 1, 0, 0, 2, 1, 2, 0, 4, 0, 0, 3, 1, 0, 2, 2, 2, 2, 1, 0, 0, 3, 4, 0};
    route(Balancing::kOn);
  }
};

void check_plan(const std::string& admit, const Numbers& token, const std::vector<double>& weight) {
  CAPTURE(admit);
  const Golden r(admit);
  const Plan& plan = r.routing.plan;
  CHECK(r.routing.capacity == 2);
  CHECK(plan.offset == Numbers{0, 2, 4});
  CHECK(plan.token == token);
  CHECK(plan.slot == Numbers(4));
  CHECK(reference::beside(1, weight, plan.weight) < kWithin);
}

TEST_CASE("golden router: scores, probabilities and proposals of six tokens") {
  const Golden r("all");
  const std::vector<double> delta{1,        0,        0.707107, 0.471405, 0.565685, 0.424264,
                                  0.235702, 0.942809, 0.942809, 0.235702, 0.424264, 0.565685};
  for (size_t i = 0; i < 12; ++i) CHECK(std::abs(delta[i] - double(r.routing.score[i]) / 2) < kWithin);  // kappa 2
  const std::vector<double> p{0.880797, 0.615716, 0.570243, 0.195570, 0.804430, 0.429757};
  for (size_t t = 0; t < 6; ++t) CHECK(std::abs(p[t] - double(r.routing.probability[2 * t])) < kWithin);
  CHECK(r.routing.proposed == Numbers{0, 0, 0, 1, 0, 1});
}

TEST_CASE("golden router: who is admitted by affinity, by order, and from the bottom") {
  check_plan("top_capacity(factor(0.66))", {0, 4, 3, 5}, {0.880797, 0.804430, 0.804430, 0.570243});
  check_plan("fifo(factor(0.66))", {0, 1, 3, 5}, {0.880797, 0.615716, 0.804430, 0.570243});
  check_plan("top_capacity(factor(0.66), bottom)", {1, 2, 3, 5}, {0.615716, 0.570243, 0.804430, 0.570243});
  for (const std::string admit : {"top_capacity(factor(1.1))", "fifo(factor(1.1))"}) {
    const Golden r(admit);
    CHECK(r.routing.capacity == 4);
    CHECK(r.routing.chosen == r.routing.proposed);
  }
}

TEST_CASE("golden router: the capacity that keeps tau of the affinity") {
  for (const auto& [tau, count] : {std::pair{"0.7", 3}, {"0.76", 3}, {"0.9", 4}}) {
    Golden r(std::string("top_capacity(etr_sum(tau=") + tau + ", decay=0, lo=0, hi=2))");
    r.update();
    r.route();
    CHECK(r.routing.capacity == count);
  }
}

TEST_CASE("golden router: losses") {
  CHECK(std::abs(Golden("all", " + load(1)").routing.balance_loss - 1.055168) < kWithin);
  CHECK(std::abs(Golden("top_capacity(factor(0.66))", " + load(1)").routing.balance_loss - 1.055168) < kWithin);
  CHECK(std::abs(Golden("all", " + z_loss(1)").routing.balance_loss - 3.785147) < 6e-6);
  Golden r("all", " + locality(1)");
  CHECK(r.routing.balance_loss == 0);  // one node
  r.nodes = 2;
  r.node = {0, 0, 0, 1, 1, 1};
  CHECK(std::abs(r.route(Balancing::kOn).balance_loss - 1.433686) < 2e-6);
  Golden both("all", " + load(0.5) + z_loss(0.25)");
  CHECK(both.routing.balance_loss == doctest::Approx(0.5 * 1.055168 + 0.25 * 3.785147).epsilon(1e-6));
  double p = 0;
  for (size_t t = 0; t < 6; ++t) p += double(both.routing.probability[2 * t]) / 6;
  CHECK(std::abs(p - 0.582752) < kWithin);
}

}  // namespace
}  // namespace choir::moe
