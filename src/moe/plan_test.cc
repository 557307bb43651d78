#include "moe/plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "moe/reference/data.h"

namespace choir::moe {
namespace {

// The edges as they were proposed: (token, slot) -> expert.
std::map<std::pair<int, int>, int> wanted(const std::vector<int32_t>& chosen, int choices) {
  std::map<std::pair<int, int>, int> edges;
  for (int i = 0; i < static_cast<int>(chosen.size()); ++i)
    if (chosen[i] >= 0) edges[{i / choices, i % choices}] = chosen[i];
  return edges;
}

void check_offsets(const Plan& plan, int experts) {
  REQUIRE(plan.offset.size() == static_cast<size_t>(experts) + 1);
  CHECK(plan.experts() == experts);
  CHECK(plan.offset.front() == 0);
  CHECK(std::ranges::is_sorted(plan.offset));
  CHECK(plan.offset.back() == plan.edges());
  CHECK(plan.slot.size() == plan.token.size());
  CHECK(plan.weight.size() == plan.token.size());
}

// Every invariant of a Plan: it holds the proposed edges and no other, each once, in the promised order.
void check_plan(const Plan& plan, const std::vector<int32_t>& chosen, int choices, int experts) {
  check_offsets(plan, experts);
  const auto want = wanted(chosen, choices);
  std::map<std::pair<int, int>, int> got;
  std::set<std::pair<int, int>> pairs;
  for (int e = 0; e < experts; ++e)
    for (int i = plan.offset[e]; i < plan.offset[e + 1]; ++i) {
      CHECK((0 <= plan.token[i] && plan.token[i] < plan.tokens));
      CHECK((0 <= plan.slot[i] && plan.slot[i] < choices));
      if (i > plan.offset[e]) CHECK(plan.token[i - 1] < plan.token[i]);
      CHECK(pairs.insert({plan.token[i], e}).second);
      got[{plan.token[i], plan.slot[i]}] = e;
      CHECK(plan.edge[plan.token[i] * choices + plan.slot[i]] == i);
    }
  CHECK(got == want);
  CHECK(plan.edges() == static_cast<int>(want.size()));
  REQUIRE(plan.edge.size() == chosen.size());
  for (size_t i = 0; i < chosen.size(); ++i) CHECK((plan.edge[i] < 0) == (chosen[i] < 0));
}

TEST_CASE("plan: every invariant over random proposals, with and without dropped slots") {
  Plan plan;  // one object throughout: nothing of an earlier call may stay behind
  uint64_t seed = 1;
  for (const int experts : {1, 2, 3, 8, 60})
    for (const int tokens : {0, 1, 2, 17, 64})
      for (const int choices : {1, 2, 4})
        for (const double dropped : {0.0, 0.3, 1.0}) {
          if (choices > experts) continue;
          CAPTURE(experts);
          CAPTURE(tokens);
          CAPTURE(choices);
          CAPTURE(dropped);
          const auto chosen = reference::random_choices(tokens, choices, experts, dropped, seed++);
          build_plan(chosen, tokens, choices, experts, plan);
          CHECK(plan.tokens == tokens);
          CHECK(plan.choices == choices);
          check_plan(plan, chosen, choices, experts);
        }
}

TEST_CASE("plan: kept and dropped make up the proposed, per expert and in total") {
  const int tokens = 50, choices = 2, experts = 7;
  const auto proposed = reference::random_choices(tokens, choices, experts, 0, 1);
  auto chosen = proposed;
  std::vector<int> count(experts), dropped(experts);
  for (size_t i = 0; i < chosen.size(); ++i) {
    ++count[proposed[i]];
    if (i % 3 != 0) continue;
    ++dropped[proposed[i]];
    chosen[i] = -1;
  }
  Plan plan;
  build_plan(chosen, tokens, choices, experts, plan);
  for (int e = 0; e < experts; ++e) CHECK(plan.offset[e + 1] - plan.offset[e] + dropped[e] == count[e]);
  CHECK(plan.edges() + (tokens * choices + 2) / 3 == tokens * choices);
}

TEST_CASE("plan: all tokens at one expert leave the others empty") {
  Plan plan;
  build_plan(std::vector<int32_t>(9, 2), 9, 1, 4, plan);
  CHECK(plan.offset == std::vector<int32_t>{0, 0, 0, 9, 9});
  CHECK(plan.token == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("plan: the edges of three tokens, written out") {
  Plan plan;
  build_plan({2, 0, 0, -1, 1, 2}, 3, 2, 3, plan);
  CHECK(plan.offset == std::vector<int32_t>{0, 2, 3, 5});
  CHECK(plan.token == std::vector<int32_t>{0, 1, 2, 0, 2});
  CHECK(plan.slot == std::vector<int32_t>{1, 0, 0, 0, 1});
  CHECK(plan.edge == std::vector<int32_t>{3, 0, 1, -1, 2, 4});
}

}  // namespace
}  // namespace choir::moe
