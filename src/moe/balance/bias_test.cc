#include "moe/balance/bias.h"

#include <numeric>

#include "moe/reference/balance_case.h"
#include "moe/router.h"

namespace choir::moe {
namespace {

TEST_CASE("bias: rises by gamma where an expert got less than the mean, falls where more, stays at the mean") {
  const BiasBalance word{0.25f};
  reference::Batch b(6, 4, 1, 1);
  b.proposed = {0, 0, 0, 1, 3, -1};
  b.refresh();
  std::vector<float> sums(4), state{1, 1, 1, 1};
  word.observe(b.context(), b.routing, sums);
  CHECK(sums == std::vector<float>{3, 1, 0, 1});
  word.update(sums, state);
  CHECK(state == std::vector<float>{0.75f, 1.25f, 1.25f, 1.25f});
  word.update(std::vector<float>{2, 2, 2, 2}, state);
  CHECK(state == std::vector<float>{0.75f, 1.25f, 1.25f, 1.25f});
  CHECK(word.loss(b.context(), b.routing) == 0);
}

TEST_CASE("bias: takes part in the choice alone, not in the weights") {
  const Router plain = parse_router("linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5)"),
               biased = parse_router("linear(sigmoid) > top_k(2) > all > sigmoid_norm(2.5) + bias(0.1)");
  reference::Case a(60, 8, 5), b(60, 8, 5);
  a.fill_tensors(plain);
  b.fill_tensors(biased);
  b.state = {0, 0, 10, 0, 0};
  const auto wa = a.weights(), wb = b.weights();
  plain.route(a.context(wa), Balancing::kOn, a.routing);
  biased.route(b.context(wb), Balancing::kOn, b.routing);
  CHECK(b.routing.plan.offset[3] - b.routing.plan.offset[2] == 60);
  for (int i = 0; i < 60 * 5; ++i) CHECK(a.routing.score[size_t(i)] == b.routing.score[size_t(i)]);
  int same = 0;
  for (size_t t = 0; t < 60; ++t) {  // where both chose the same two experts, the weights are the same
    std::vector<std::pair<int, float>> one, two;
    for (size_t s = 0; s < 2; ++s) {
      one.emplace_back(a.routing.chosen[2 * t + s], a.routing.plan.weight[size_t(a.routing.plan.edge[2 * t + s])]);
      two.emplace_back(b.routing.chosen[2 * t + s], b.routing.plan.weight[size_t(b.routing.plan.edge[2 * t + s])]);
    }
    std::sort(one.begin(), one.end());
    std::sort(two.begin(), two.end());
    if (one[0].first != two[0].first || one[1].first != two[1].first) continue;
    ++same;
    for (size_t s = 0; s < 2; ++s) CHECK(one[s].second == doctest::Approx(two[s].second).epsilon(1e-6));
  }
  CHECK(same > 5);
}

TEST_CASE("bias: balances a router that prefers one expert") {
  const Router router = parse_router("linear(sigmoid) > top_k(1) > all > sigmoid + bias(0.02)");
  reference::Case c(400, 6, 4);
  c.fill_tensors(router);
  for (int t = 0; t < 400; ++t) c.x[size_t(t * 6)] = 1;
  c.tensor[0][0] = 3;  // expert 0 gets a bonus from the constant channel
  c.state.assign(4, 0);
  const auto weights = c.weights();
  const auto most = [&] {
    router.route(c.context(weights), Balancing::kOff, c.routing);
    int count = 0;
    for (int e = 0; e < 4; ++e) count = std::max(count, c.routing.plan.offset[e + 1] - c.routing.plan.offset[e]);
    return count;
  };
  CHECK(most() > 250);
  for (int step = 0; step < 200; ++step) {
    router.route(c.context(weights), Balancing::kOff, c.routing);
    std::vector<float> sums(size_t(router.sums_size(4)));
    router.observe(c.context(weights), c.routing, sums);
    router.update(4, sums, c.state);
  }
  CHECK(most() < 140);
}

}  // namespace
}  // namespace choir::moe
