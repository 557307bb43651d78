#include "moe/admit/mask.h"

#include "moe/parse.h"
#include "moe/reference/layer.h"
#include "moe/reference/selection.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 30, kWidth = 8, kExperts = 5;

TEST_CASE("mask: texts, ranges and what fits") {
  reference::check_text<Mask>({"mask(0)", "mask(1, 3)"}, {"mask", "mask(-1)", "mask(a)", "mask(1,1)", "mask(5000)"});
  CHECK(reference::read_word<Mask>("mask(3,1)").text() == "mask(1, 3)");
  CHECK(Mask{{1, 3}}.misfit(4, 64).empty());
  CHECK(!Mask{{1, 3}}.misfit(3, 64).empty());
  CHECK(!Mask{{0, 1}}.misfit(2, 64).empty());
}

struct Routed {
  reference::Case c{kTokens, kWidth, kExperts};
  explicit Routed(const std::string& expression, Rule rule = Rule::kTraining) {
    const Router router = parse_router(expression);
    c.rule = rule;
    c.fill_tensors(router);
    c.state.resize(static_cast<size_t>(router.state_size(kExperts)));
    const auto list = c.weights();
    router.route(c.context(list), Balancing::kOn, c.routing);
  }
  // The scores of the experts but 1 and 3.
  std::vector<double> others() const {
    std::vector<double> z;
    for (int t = 0; t < kTokens; ++t)
      for (const int e : {0, 2, 4})
        z.push_back(static_cast<double>(c.routing.score[static_cast<size_t>(t * kExperts + e)]));
    return z;
  }
};

TEST_CASE("mask: the others route as if they were alone") {
  const Routed r("linear > top_k(2) > mask(1, 3) > softmax + load(0.1) + z_loss(0.1) + entropy(0.1)");
  const auto z = r.others();
  const auto alone = reference::top_k(z, 3, 2);
  const int number[] = {0, 2, 4};
  for (size_t i = 0; i < alone.size(); ++i) CHECK(r.c.routing.chosen[i] == number[alone[i]]);
  for (size_t t = 0; t < kTokens; ++t) {
    const auto p = reference::softmax(reference::row_of(z, t, 3));
    for (size_t s = 0; s < 2; ++s) {
      const auto edge = static_cast<size_t>(r.c.routing.plan.edge[2 * t + s]);
      CHECK(static_cast<double>(r.c.routing.plan.weight[edge]) ==
            doctest::Approx(p[static_cast<size_t>(alone[2 * t + s])]).epsilon(1e-5));
    }
  }
  CHECK(std::isfinite(r.c.routing.balance_loss));
}

TEST_CASE("mask: a slot that only a masked expert could fill stays empty, under every proposal") {
  for (const std::string propose : {"top_k(5)", "all", "second_random", "top_p(1)", "groups(1,1,5)", "sinkhorn(5)",
                                    "assignment", "positive", "mass(1)"})
    for (const Rule rule : {Rule::kTraining, Rule::kDecode})
      for (const std::string score : {"linear", "linear(sigmoid)", "noisy", "dense_cosine", "projected_cosine(4)"}) {
        CAPTURE(propose);
        CAPTURE(score);
        const Routed r(score + " > " + propose + " > mask(0, 1, 3, 4) > chosen + bias(0.01)", rule);
        const Plan& plan = r.c.routing.plan;
        for (int e = 0; e < kExperts; ++e)
          if (e != 2) CHECK(plan.offset[e] == plan.offset[e + 1]);
        if (propose != "positive" && propose != "mass(1)") CHECK(plan.edges() == kTokens);
      }
}

TEST_CASE("mask: the backward is finite, and nothing reaches the gate of a masked expert") {
  for (const std::string score : {"linear", "noisy", "dense_cosine", "projected_cosine(4)"}) {
    CAPTURE(score);
    Routed r(score + " > top_k(2) > mask(1, 3) > softmax + load(0.1) + entropy(0.1) + z_loss(0.1)");
    const Router router =
        parse_router(score + " > top_k(2) > mask(1, 3) > softmax + load(0.1) + entropy(0.1) + z_loss(0.1)");
    std::vector<float> dx(r.c.x.size()), dweight(static_cast<size_t>(r.c.routing.plan.edges()), 0.5f);
    std::vector<std::vector<float>> dw;
    for (const auto& t : r.c.tensor) dw.emplace_back(t.size());
    std::vector<Matrix<float>> views;
    for (size_t i = 0; i < dw.size(); ++i) views.push_back({dw[i].data(), r.c.shape[i].first, r.c.shape[i].second});
    const auto list = r.c.weights();
    router.backward({.dweight = dweight,
                     .balance_scale = 1,
                     .dx = reference::matrix(dx, kWidth),
                     .tensors = views,
                     .previous = {},
                     .dscore = {}},
                    r.c.context(list), r.c.routing);
    for (const float d : dx) CHECK(std::isfinite(d));
    for (const auto& d : dw)
      for (const float v : d) CHECK(std::isfinite(v));
    for (int j = 0; j < views[0].cols; ++j) {
      CHECK(views[0][1][j] == 0);
      CHECK(views[0][3][j] == 0);
    }
  }
}

TEST_CASE("mask: refused beside a gate that reads the scores before") {
  CHECK_THROWS_AS(parse_router("linear(residual) > top_k(2) > mask(0) > chosen"), base::Error);
}

TEST_CASE("mask: numbers that are tracked stay finite, and a masked expert has no part in them") {
  for (const std::string text : {"linear > top_k(1) > mask(1, 3) > softmax + quantile(0)",
                                 "linear(sigmoid) > top_k(1) > mask(1, 3) > softmax + quantile(0)",
                                 "grap_cosine(center=0.5) > top_k(1) > mask(1, 3) > softmax"}) {
    CAPTURE(text);
    Routed r(text);
    const Router router = parse_router(text);
    const auto list = r.c.weights();
    for (int step = 0; step < 20; ++step) {
      std::vector<float> sums(static_cast<size_t>(router.sums_size(kExperts)));
      router.route(r.c.context(list), Balancing::kOn, r.c.routing);
      router.observe(r.c.context(list), r.c.routing, sums);
      router.update(kExperts, sums, r.c.state);
      for (const float v : r.c.state) CHECK(std::isfinite(v));
    }
    CHECK(r.c.state[1 + 1] == 0);
    CHECK(r.c.state[1 + 3] == 0);
    if (text.ends_with("quantile(0)"))  // the others share the tokens evenly
      for (const int e : {0, 2, 4})
        CHECK(std::abs(r.c.routing.plan.offset[e + 1] - r.c.routing.plan.offset[e] - kTokens / 3) <= 3);
  }
}

}  // namespace
}  // namespace choir::moe
