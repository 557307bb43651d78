#include "moe/balance/quantile.h"

#include "moe/parse.h"
#include "moe/reference/balance.h"
#include "moe/reference/selection.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 240, kWidth = 10, kExperts = 6;

TEST_CASE("quantile: texts and ranges") {
  reference::check_text<Quantile>({"quantile", "quantile(decay=0)"}, {"quantile(1)", "quantile(-1)", "quantile(0,1)"});
}

// A router on tokens that share a direction, so that its experts are unequally popular.
struct Run {
  reference::Case c{kTokens, kWidth, kExperts};
  Router router;
  std::vector<float> sums;
  explicit Run(const std::string& expression) : router(parse_router(expression)) {
    for (size_t i = 0; i < c.x.size(); i += kWidth) c.x[i] += 2;
    c.fill_tensors(router);
    c.state.assign(static_cast<size_t>(router.state_size(kExperts)), 0);
  }
  void route() {
    const auto list = c.weights();
    router.route(c.context(list), Balancing::kOn, c.routing);
  }
  void step(int parts = 1) {
    route();
    sums.assign(static_cast<size_t>(router.sums_size(kExperts)), 0);
    const auto list = c.weights();
    for (int i = 0; i < parts; ++i) router.observe(c.context(list), c.routing, sums);
    router.update(kExperts, sums, c.state);
  }
  std::vector<double> scores() const {
    std::vector<double> z;
    for (size_t i = 0; i < kTokens * kExperts; ++i) z.push_back(static_cast<double>(c.routing.score[i]));
    return z;
  }
  std::vector<double> beta() const { return {c.state.begin() + 1, c.state.end()}; }
  double worst_load() const {
    std::vector<int> loads(kExperts);
    for (const int32_t e : c.routing.proposed)
      if (e >= 0) ++loads[static_cast<size_t>(e)];
    return static_cast<double>(std::ranges::max(loads)) * kExperts / static_cast<double>(c.routing.proposed.size());
  }
};

TEST_CASE("quantile: one step is the reference's, centred; later ones are tracked") {
  Run run("linear > top_k(2) > all > softmax + quantile(0.75)");
  run.step(2);
  const auto first = reference::centred(reference::quantile_beta(run.scores(), std::vector<double>(kExperts), 2));
  CHECK(reference::error(first, run.beta()) < 1e-5);
  const auto before = run.beta();
  run.step();
  const auto now = reference::centred(reference::quantile_beta(run.scores(), before, 2));
  std::vector<double> want;
  for (size_t e = 0; e < kExperts; ++e) want.push_back(0.75 * before[e] + 0.25 * now[e]);
  CHECK(reference::error(want, run.beta()) < 1e-5);
}

TEST_CASE("quantile: the choice is that of z - beta, the weights are those of z, and the load evens out") {
  for (const std::string score : {"linear", "linear(sigmoid)"}) {
    CAPTURE(score);
    Run run(score + " > top_k(2) > all > softmax + quantile(0)");
    run.route();
    const double at_first = run.worst_load();
    CHECK(at_first > 1.3);
    CHECK(run.c.routing.balance_loss == 0);
    for (int i = 0; i < 20; ++i) run.step();
    run.route();
    CHECK(run.worst_load() < 1.1);
    if (score != "linear") continue;
    auto shifted = run.scores();
    for (size_t i = 0; i < shifted.size(); ++i) {
      const float z = run.c.routing.score[i] - run.c.state[i % kExperts + 1];
      shifted[i] = static_cast<double>(z);
    }
    CHECK(run.c.routing.proposed == reference::top_k(shifted, kExperts, 2));
    const auto p = reference::softmax(reference::row_of(run.scores(), 0, kExperts));
    const auto e = static_cast<size_t>(run.c.routing.chosen[0]);
    CHECK(static_cast<double>(run.c.routing.plan.weight[static_cast<size_t>(run.c.routing.plan.edge[0])]) ==
          doctest::Approx(p[e]).epsilon(1e-5));
  }
}

TEST_CASE("quantile: padding does not count, and nothing moves where all experts are chosen") {
  Run plain("linear > top_k(2) > all > softmax + quantile"), padded("linear > top_k(2) > all > softmax + quantile");
  padded.c.rows = 2 * kTokens;
  padded.c.x.resize(2 * plain.c.x.size());
  for (int t = 0; t < kTokens; ++t) {
    std::copy_n(plain.c.x.begin() + t * kWidth, kWidth, padded.c.x.begin() + 2 * t * kWidth);
    padded.c.padding.push_back(0);
    padded.c.padding.push_back(1);
  }
  plain.step();
  padded.step();
  CHECK(plain.c.state == padded.c.state);
  Run all("linear > top_k(6) > all > softmax + quantile");
  all.step();
  CHECK(all.c.state == std::vector<float>(kExperts + 1));
}

TEST_CASE("quantile: a NaN counts nowhere") {
  Run run("linear > top_k(2) > all > softmax + quantile(0)"), spoilt("linear > top_k(2) > all > softmax + quantile(0)");
  run.c.padding.assign(kTokens, 0);
  run.c.padding[3] = run.c.padding[100] = 1;
  for (const int t : {3, 100}) spoilt.c.x[static_cast<size_t>(t * kWidth)] = NAN;
  run.step();
  spoilt.step();
  CHECK(run.c.state == spoilt.c.state);
}

}  // namespace
}  // namespace choir::moe
