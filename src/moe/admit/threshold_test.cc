#include "moe/admit/threshold.h"

#include "moe/parse.h"
#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 100, kExperts = 4;

TEST_CASE("threshold: texts, ranges and what fits") {
  reference::check_text<Threshold>(
      {"threshold(1)", "threshold(1.5, decay=0.9)", "threshold(2, key=prob)", "threshold(0.5, decay=0, key=cos)"},
      {"threshold", "threshold(0)", "threshold(1,decay=1)", "threshold(1,key=z)"});
  CHECK(Threshold{2}.misfit(2, 64).empty());
  CHECK(!Threshold{2.5f}.misfit(2, 64).empty());
}

// Every token proposes every expert; `admit` acts on scores z.
struct Problem {
  reference::Case c{kTokens, 1, kExperts};
  std::vector<double> z;
  explicit Problem(const Threshold& word, double scale = 1, uint64_t seed = 1)
      : z(reference::random(kTokens * kExperts, scale, seed)) {
    c.set_scores(reference::narrow(z));
    std::vector<int32_t> all;
    for (int i = 0; i < kTokens * kExperts; ++i) all.push_back(i % kExperts);
    c.set_choices(all, all);
    c.state.assign(static_cast<size_t>(word.state_size(kExperts)), 0);
  }
  std::vector<double> nth(size_t n) const {
    std::vector<double> theta;
    for (size_t e = 0; e < kExperts; ++e) {
      std::vector<double> column;
      for (size_t t = 0; t < kTokens; ++t) column.push_back(z[t * kExperts + e]);
      theta.push_back(column[reference::best_first(column)[n - 1]]);
    }
    return theta;
  }
};

TEST_CASE("threshold: the first training batch keeps its own quantile, which is exactly the rate") {
  for (const double scale : {1e-3, 1.0, 50.0}) {
    const Threshold word{1.2f};
    Problem p(word, scale);
    word.admit(p.c.context(), p.c.routing);
    CHECK(p.c.routing.chosen == reference::threshold(p.c.routing.proposed, p.z, kExperts, p.nth(30)));
    for (int e = 0; e < kExperts; ++e) CHECK(std::ranges::count(p.c.routing.chosen, e) == 30);
  }
}

TEST_CASE("threshold: evaluation keeps all before the first update, and what reaches theta after it") {
  const Threshold word{1, 0.75f};
  Problem p(word);
  p.c.rule = Rule::kDecode;
  word.admit(p.c.context(), p.c.routing);
  CHECK(p.c.routing.chosen == p.c.routing.proposed);

  std::vector<float> sums(static_cast<size_t>(word.sums_size(kExperts)));
  word.observe(p.c.context(), p.c.routing, sums);
  word.update(sums, p.c.state);
  const auto first = p.nth(25);
  for (int e = 0; e < kExperts; ++e) CHECK(static_cast<double>(p.c.state[e]) == first[e]);

  Problem next(word, 2, 7);
  std::ranges::fill(sums, 0.0f);
  next.c.state = p.c.state;
  word.observe(next.c.context(), next.c.routing, sums);
  word.observe(next.c.context(), next.c.routing, sums);  // two equal parts of a step
  word.update(sums, next.c.state);
  std::vector<double> theta;
  for (int e = 0; e < kExperts; ++e) {
    theta.push_back(0.75 * first[e] + 0.25 * next.nth(25)[e]);
    CHECK(static_cast<double>(next.c.state[e]) == doctest::Approx(theta[e]).epsilon(1e-6));
  }
  for (const Rule rule : {Rule::kTraining, Rule::kDecode}) {
    next.c.rule = rule;
    next.c.routing.chosen = next.c.routing.proposed;
    word.admit(next.c.context(), next.c.routing);
    CHECK(next.c.routing.chosen == reference::threshold(next.c.routing.proposed, next.z, kExperts, theta));
  }
}

TEST_CASE("threshold: equal scores are kept, padding does not count") {
  const Threshold word{1};
  Problem p(word);
  p.c.set_scores(std::vector<float>(kTokens * kExperts));
  word.admit(p.c.context(), p.c.routing);
  CHECK(p.c.routing.chosen == p.c.routing.proposed);

  reference::Case c(40, 6, kExperts), wide(80, 6, kExperts);
  for (size_t i = 0; i < c.x.size(); ++i) wide.x[i / 6 * 12 + i % 6] = c.x[i];
  for (int t = 0; t < 80; ++t) wide.padding.push_back(static_cast<uint8_t>(t % 2));
  const Router router = parse_router("linear > all > threshold(1) > sigmoid");
  CHECK(router.causal());
  std::vector<float> state[2];
  for (int i = 0; i < 2; ++i) {
    reference::Case& one = i ? wide : c;
    one.fill_tensors(router);
    one.state.assign(static_cast<size_t>(router.state_size(kExperts)), 0);
    const auto list = one.weights();
    router.route(one.context(list), Balancing::kOff, one.routing);
    std::vector<float> sums(static_cast<size_t>(router.sums_size(kExperts)));
    router.observe(one.context(list), one.routing, sums);
    router.update(kExperts, sums, one.state);
    state[i] = one.state;
  }
  CHECK(state[0] == state[1]);
  CHECK(c.routing.plan.weight == wide.routing.plan.weight);
}

}  // namespace
}  // namespace choir::moe
