// The routing rules of published models, written down as their code has them and held against the expressions made for
// them; and the same with a mistake in each place, which must be seen.
#include "moe/published.h"

#include <doctest/doctest.h>

#include <map>

#include "base/error.h"
#include "moe/parse.h"
#include "moe/reference/route_case.h"
#include "moe/reference/weights.h"

namespace choir::moe {
namespace {

using Reals = std::vector<double>;
using Chosen = std::map<int32_t, double>;  // expert to weight: the order of choices is free
using Published = PublishedRouter;

constexpr int kTokens = 120, kWidth = 16, kExperts = 24;

// A rule as the published code computes it, step by step, from the logits of one token.
struct PlainRule {
  size_t k = 2;
  bool sigmoid = false, normalised = true, of_chosen_logits = false, sparse_mixer = false, biased_weights = false;
  double scale = 1, eps = 0.01, masked = -HUGE_VAL;
  size_t groups = 1, keep = 1;
  bool by_top_two = false;
  Reals selection_bias{};

  Chosen choose(const Reals& z) const {
    if (sparse_mixer) {
      const auto rounds = reference::sparse_mixer(z, eps);
      return {rounds.begin(), rounds.end()};
    }
    Reals score = z;
    if (sigmoid)
      for (double& s : score) s = 1 / (1 + std::exp(-s));
    else if (!of_chosen_logits)
      score = reference::softmax(z);
    Reals key = score;
    for (size_t e = 0; e < selection_bias.size(); ++e) key[e] += selection_bias[e];
    if (groups > 1) mask(key);
    std::vector<size_t> best = reference::best_first(key);
    best.resize(k);
    Reals weights;
    for (const size_t e : best) weights.push_back(biased_weights ? score[e] + selection_bias[e] : score[e]);
    if (of_chosen_logits) {
      weights = reference::softmax(weights);
    } else if (normalised) {
      double sum = 1e-20;
      for (const double w : weights) sum += w;
      for (double& w : weights) w /= sum;
    }
    Chosen chosen;
    for (size_t i = 0; i < k; ++i) chosen[int32_t(best[i])] = weights[i] * scale;
    return chosen;
  }

 private:
  void mask(Reals& key) const {
    const size_t size = key.size() / groups;
    Reals worth;
    for (size_t g = 0; g < groups; ++g) {
      Reals members = reference::row_of(key, g, size);
      std::sort(members.rbegin(), members.rend());
      worth.push_back(by_top_two ? members[0] + members[1] : members[0]);
    }
    const std::vector<size_t> order = reference::best_first(worth);
    for (size_t i = keep; i < groups; ++i)
      for (size_t j = 0; j < size; ++j) key[order[i] * size + j] = masked;
  }
};

// Random tokens through the router; logits moderate, so that no weight is near 0 or 1.
struct Routed : reference::Routed {
  Routed(const Published& published, const PlainRule& plain)
      : reference::Routed(expression_of(published), kTokens, kWidth, kExperts) {
    for (float& v : x) v *= 0.3f;
    REQUIRE(state.size() == (published.selection_bias ? kExperts : 0));
    if (published.selection_bias) state = reference::narrow(plain.selection_bias);
    route();
  }
};

// The largest difference of a weight, an expert that one of them lacks included.
double distance(const Routed& r, const PlainRule& rule) {
  double most = 0;
  for (size_t t = 0; t < kTokens; ++t) {
    Chosen difference = rule.choose(reference::row_of(r.scores(), t, kExperts));
    const Plan& plan = r.routing.plan;
    for (int s = 0; s < plan.choices; ++s) {
      const int32_t edge = plan.edge[t * size_t(plan.choices) + size_t(s)];
      REQUIRE(edge >= 0);
      difference[r.routing.chosen[t * size_t(plan.choices) + size_t(s)]] -= double(plan.weight[size_t(edge)]);
    }
    for (const auto& [expert, d] : difference) most = std::max(most, std::abs(d));
  }
  return most;
}

constexpr double kSame = 1e-5, kSeen = 0.02;

void check_rule(const Published& router, const PlainRule& rule, const std::vector<PlainRule>& mistakes) {
  CAPTURE(expression_of(router));
  const Routed r(router, rule);
  CHECK(distance(r, rule) < kSame);
  for (const PlainRule& mistake : mistakes) {
    CAPTURE(&mistake - mistakes.data());
    CHECK(distance(r, mistake) > kSeen);
  }
}

// A copy of a rule with a change.
template <class Change>
PlainRule but(PlainRule rule, const Change& change) {
  change(rule);
  return rule;
}

std::vector<PlainRule> common_mistakes(const PlainRule& rule) {
  return {but(rule, [](PlainRule& r) { r.normalised = !r.normalised; }),
          but(rule, [](PlainRule& r) { r.scale *= 1.5; }), but(rule, [](PlainRule& r) { --r.k; }),
          but(rule, [](PlainRule& r) { r.sigmoid = !r.sigmoid; })};
}

TEST_CASE("published: Mixtral, Qwen3-MoE and others with norm_topk_prob") {
  for (const int k : {2, 4, 8})
    for (const float scale : {1.0f, 2.5f}) {
      const PlainRule rule{.k = size_t(k), .scale = double(scale)};
      check_rule({.k = k, .scale = scale}, rule, common_mistakes(rule));
    }
  CHECK(expression_of({.k = 2, .load = 0.02f}) == parse_router("mixtral").expression());
}

TEST_CASE("published: Qwen2-MoE, OLMoE, DeepSeek-V2 greedy: the raw probability, with a scale or without") {
  for (const double scale : {1.0, 16.0}) {
    const PlainRule rule{.k = 4, .normalised = false, .scale = scale};
    check_rule({.k = 4, .weights = Published::Weights::kRaw, .scale = float(scale)}, rule, common_mistakes(rule));
  }
  using Weights = Published::Weights;
  CHECK(expression_of({.k = 4, .weights = Weights::kRaw, .load = 0.001f}) == parse_router("qwen2").expression());
  CHECK(expression_of({.k = 8, .weights = Weights::kRaw, .load = 0.01f}) == parse_router("olmoe").expression());
  CHECK(expression_of({.k = 6, .weights = Weights::kRaw, .load = 0.001f, .load_by_sequence = true}) ==
        parse_router("deepseek_v2_lite").expression());
}

TEST_CASE("published: DeepSeek-V2 within groups, a group by its best; the published fill of 0 is harmless there") {
  const PlainRule rule{.k = 6, .normalised = false, .scale = 16, .groups = 8, .keep = 3};
  const Published router{.k = 6, .weights = Published::Weights::kRaw, .scale = 16, .groups = 8, .keep = 3};
  auto mistakes = common_mistakes(rule);
  mistakes.push_back(but(rule, [](PlainRule& r) { r.groups = 1; }));
  mistakes.push_back(but(rule, [](PlainRule& r) { r.by_top_two = true; }));
  mistakes.push_back(but(rule, [](PlainRule& r) { r.keep = 2; }));
  check_rule(router, rule, mistakes);
  check_rule(router, but(rule, [](PlainRule& r) { r.masked = 0; }), {});
  Published alias = router;
  alias.load = 0.001f;
  alias.load_by_sequence = true;
  CHECK(expression_of(alias) == parse_router("deepseek_v2").expression());
}

// Biases so low that kept keys are negative: then a fill of 0 would choose what was masked.
Reals biases(double mean) {
  Reals bias = reference::random(kExperts, 0.3, 21);
  for (double& b : bias) b = double(float(b + mean));
  return bias;
}

TEST_CASE("published: DeepSeek-V3: sigmoid, selection bias, groups by their two best, masked by -infinity") {
  for (const bool normalised : {true, false})
    for (const double mean : {0.0, -1.5}) {
      const PlainRule rule{.k = 4,
                           .sigmoid = true,
                           .normalised = normalised,
                           .scale = 2.5,
                           .groups = 6,
                           .keep = 2,
                           .by_top_two = true,
                           .selection_bias = biases(mean)};
      const Published router{.k = 4,
                             .score = Published::Score::kSigmoid,
                             .weights = normalised ? Published::Weights::kNormalised : Published::Weights::kRaw,
                             .scale = 2.5f,
                             .groups = 6,
                             .keep = 2,
                             .by_top_two = true,
                             .selection_bias = true};
      auto mistakes = common_mistakes(rule);
      mistakes.push_back(but(rule, [](PlainRule& r) { r.selection_bias.assign(kExperts, 0); }));
      mistakes.push_back(but(rule, [](PlainRule& r) { r.biased_weights = true; }));
      mistakes.push_back(but(rule, [](PlainRule& r) { r.groups = 1; }));
      mistakes.push_back(but(rule, [](PlainRule& r) { r.by_top_two = false; }));
      if (mean < 0) mistakes.push_back(but(rule, [](PlainRule& r) { r.masked = 0; }));
      check_rule(router, rule, mistakes);
    }
}

TEST_CASE("published: gpt-oss and GraniteMoE: the best logits, a softmax over them; the bias of the gate counts") {
  const PlainRule rule{.k = 4, .of_chosen_logits = true};
  auto mistakes = common_mistakes(rule);
  mistakes.erase(mistakes.begin());  // nothing is left to normalise
  mistakes.back() = but(rule, [](PlainRule& r) { r.of_chosen_logits = r.normalised = false; });
  for (const bool bias : {true, false}) check_rule({.k = 4, .gate_bias = bias}, rule, mistakes);
  const Routed r({.k = 4, .gate_bias = true}, rule);
  REQUIRE(r.tensor.size() == 2);
  const Reals x(r.x.begin(), r.x.end()), w(r.tensor[0].begin(), r.tensor[0].end());
  Reals z = reference::linear(x, w, kWidth);
  for (size_t i = 0; i < z.size(); ++i) z[i] += double(r.tensor[1][i % kExperts]);
  CHECK(reference::error(r.scores(), z) < 1e-5);
  CHECK(expression_of({.k = 4, .gate_bias = true, .load = 0.9f}) == parse_router("gpt_oss").expression());
  CHECK(expression_of({.k = 8, .load = 0.001f}) == parse_router("granite").expression());
}

TEST_CASE("published: Phi: two rounds, each with its own softmax") {
  const PlainRule rule{.sparse_mixer = true};
  const PlainRule wider{.sparse_mixer = true, .eps = 0.1};
  const Published router{.weights = Published::Weights::kSparseMixer};
  check_rule(router, rule, {PlainRule{}, PlainRule{.normalised = false}, wider});
  check_rule({.weights = Published::Weights::kSparseMixer, .eps = 0.1f}, wider, {PlainRule{}, rule});
  CHECK(expression_of({.weights = Published::Weights::kSparseMixer, .load = 0.001f}) ==
        parse_router("phi").expression());
}

TEST_CASE("published: what no router does is refused") {
  for (const Published& router :
       {Published{.weights = Published::Weights::kSparseMixer, .scale = 2},
        Published{.score = Published::Score::kSigmoid, .weights = Published::Weights::kSparseMixer},
        Published{.weights = Published::Weights::kSparseMixer, .selection_bias = true},
        Published{.k = 4, .weights = Published::Weights::kSparseMixer},
        Published{.weights = Published::Weights::kSparseMixer, .groups = 2}, Published{.k = 0},
        Published{.groups = 4, .keep = 5}})
    CHECK_THROWS_AS(expression_of(router), base::Error);
}

}  // namespace
}  // namespace choir::moe
