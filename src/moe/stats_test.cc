#include "moe/stats.h"

#include <doctest/doctest.h>

#include <cmath>

#include "moe/reference/route_case.h"

namespace choir::moe {
namespace {

// Five rows, the last one padding; three experts, two choices, room for two tokens each. Worked out by hand.
Routing case_by_hand() {
  Routing r;
  r.proposed = {0, 1, 0, 1, 0, 2, 1, 0, -1, -1};
  r.chosen = {0, 1, 0, 1, -1, 2, -1, -1, -1, -1};
  r.capacity = 2;
  r.scale = 2;
  r.score = Buffer<float>(15);
  const float z[] = {4, 2, 0, 6, 4, 0, 2, 0, 8, 1, 3, 0, 9, 9, 9};
  std::copy(std::begin(z), std::end(z), r.score.data());
  build_plan(r.chosen, 5, 2, 3, r.plan);
  r.plan.weight = {0.75f, 0.5f, 0.25f, 1, 0.125f};  // of expert 0, 0, 1, 1, 2
  return r;
}

TEST_CASE("stats: counts of a small case") {
  RoutingStats stats;
  stats.add(case_by_hand());
  CHECK(stats.tokens == 4);
  CHECK(stats.slots == 8);
  CHECK(stats.proposed() == 8);
  CHECK(stats.kept() == 5);
  CHECK(stats.processed_share() == doctest::Approx(5.0 / 8));
  CHECK(stats.unserved_share() == doctest::Approx(1.0 / 4));
  CHECK(stats.refused == 3);
  CHECK(stats.experts[0].proposed == 4);
  CHECK(stats.experts[0].kept == 2);
  CHECK(stats.experts[0].affinity == doctest::Approx((4 + 6 + 2 + 1) / 2.0));
  CHECK(stats.max_over_mean_load() == doctest::Approx(4 / (8.0 / 3)));  // of the proposals 4, 3, 1
  CHECK(stats.dead_experts() == 0);
  CHECK(stats.load_entropy() ==
        doctest::Approx(-0.5 * std::log(0.5) - 0.375 * std::log(0.375) - 0.125 * std::log(0.125)));
  CHECK(stats.tokens_per_expert() == doctest::Approx(5.0 / 3));
  CHECK(stats.capacity == 2);
  CHECK(*stats.capacity_factor() == doctest::Approx(2 * 3 / 8.0));
  CHECK(*stats.mean_kept_affinity() == doctest::Approx((4 + 2 + 6 + 4 + 8) / 2.0 / 5));
  CHECK(*stats.mean_refused_affinity() == doctest::Approx((2 + 3 + 1) / 2.0 / 3));
  CHECK(stats.mean_gates() == std::vector<std::optional<double>>{0.625, 0.625, 0.125});
}

// From the Plan alone, expert by expert, where the statistics go from token to token.
TEST_CASE("stats: the mean gate of an expert is that of its pairs in the plan") {
  for (const std::string text : {"linear > top_k(2) > top_capacity(factor(0.5)) > softmax",
                                 "linear > top_k(2) > top_capacity(factor(0.5), drop=reroute) > softmax(renorm)",
                                 "linear > top_k(2) > skip(0.7) > chosen", "linear > positive > all > identity"}) {
    CAPTURE(text);
    reference::Routed first(text, 40, 12, 6, 1), second(text, 25, 12, 6, 9);
    second.padding.assign(25, 0);
    std::fill_n(second.padding.begin() + 20, 5, 1);
    RoutingStats stats;
    std::vector<double> sum(6);
    std::vector<int> count(6);
    for (reference::Routed* part : {&first, &second}) {
      const Plan& plan = part->route().plan;
      for (size_t e = 0; e < 6; ++e)
        for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i, ++count[e])
          sum[e] += static_cast<double>(plan.weight[static_cast<size_t>(i)]);
      stats.add(part->routing);
    }
    const std::vector<std::optional<double>> gates = stats.mean_gates();
    REQUIRE(gates.size() == 6);
    for (size_t e = 0; e < 6; ++e) {
      REQUIRE(count[e] > 0);
      CHECK(*gates[e] == doctest::Approx(sum[e] / count[e]));
    }
  }
}

TEST_CASE("stats: parts add up to the whole") {
  const Routing routing = case_by_hand();
  RoutingStats whole, parts;
  whole.add(routing);
  parts.add_rows(routing, 0, 2);
  parts.add_rows(routing, 2, 5);
  CHECK(parts.tokens == whole.tokens);
  CHECK(parts.kept() == whole.kept());
  CHECK(parts.unserved == whole.unserved);
  CHECK(parts.kept_affinity == whole.kept_affinity);
  CHECK(!parts.capacity_factor());
  CHECK(!whole.log_min_capacity);
  Routing second = case_by_hand();
  second.log_min_capacity = 1.5;
  whole.add(second);  // twice the room for twice the tokens
  second.log_min_capacity = 0.5;
  second.proposed.assign(10, -1);  // no token: no third call
  second.capacity = 3;
  whole.add(second);
  CHECK(whole.log_min_capacity == 1.5);
  CHECK(whole.capacity == 2);
  CHECK(*whole.capacity_factor() == doctest::Approx(2 * 3 / 8.0));
}

TEST_CASE("stats: where all experts are proposed, the load is what they took") {
  Routing r;
  r.proposed = {0, 1, 0, 1, 0, 1, 0, 1};
  r.chosen = {0, -1, 0, -1, 0, 1, -1, -1};
  r.score = Buffer<float>(8);
  r.capacity = 3;
  build_plan(r.chosen, 4, 2, 2, r.plan);
  RoutingStats stats;
  stats.add(r);
  CHECK(stats.max_over_mean_load() == doctest::Approx(1.5));
  CHECK(stats.load_entropy() == doctest::Approx(-0.75 * std::log(0.75) - 0.25 * std::log(0.25)));
}

TEST_CASE("stats: one expert for all, none refused, no limit") {
  Routing r;
  r.proposed = r.chosen = {1, 1, 1};
  r.score = Buffer<float>(12);
  build_plan(r.chosen, 3, 1, 4, r.plan);
  r.plan.weight = {0.25f, 0.5f, 0.75f};
  RoutingStats stats;
  stats.add(r);
  CHECK(stats.processed_share() == 1);
  CHECK(stats.max_over_mean_load() == 4);
  CHECK(stats.dead_experts() == 3);
  CHECK(stats.load_entropy() == 0);
  CHECK(!stats.capacity_factor());
  CHECK(!stats.mean_refused_affinity());
  CHECK(!stats.mean_gates()[0]);
  CHECK(*stats.mean_gates()[1] == 0.5);
}

TEST_CASE("stats: pairs that stay on their node") {
  const Routing routing = case_by_hand();  // experts 0 and 1 lie on node 0, expert 2 on node 1
  const std::vector<int32_t> first(5, 0), second(5, 1), mixed{0, 1, 1, 0, 0};
  CHECK(local_pairs(routing.plan, first, 2) == 4);
  CHECK(local_pairs(routing.plan, second, 2) == 1);
  CHECK(local_pairs(routing.plan, mixed, 2) == 3);
  CHECK(local_pairs(routing.plan, first, 1) == 5);
}

}  // namespace
}  // namespace choir::moe
