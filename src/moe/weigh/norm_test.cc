#include "moe/weigh/norm.h"

#include <algorithm>
#include <numeric>

#include "moe/reference/weigh_case.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

using reference::check_weights;
using reference::Kind;
using reference::Weighed;

TEST_CASE("norm weights: texts and ranges") {
  reference::check_text<SqrtSoftplusNormWeights>({"sqrt_softplus_norm", "sqrt_softplus_norm(scale=1.5)"},
                                                 {"sqrt_softplus_norm(0)", "sqrt_softplus_norm(1, 2)"});
  reference::check_text<SigmoidNormWeights>(
      {"sigmoid_norm(kept)", "sigmoid_norm(scale=2.5, kept)", "sigmoid_norm(over=4)",
       "sigmoid_norm(scale=2.5, over=4)"},
      {"sigmoid_norm(over=0)", "sigmoid_norm(kept, over=4)", "sigmoid_norm(4.5, 2)"});
  CHECK_THROWS_AS(parse_router("linear > positive > all > sigmoid_norm(over=3)"), base::Error);
  CHECK(parse_router("linear > top_k(2) > all > sigmoid_norm(over=9)").misfit(9, 4).empty());
  CHECK(!parse_router("linear > top_k(2) > all > sigmoid_norm(over=9)").misfit(8, 4).empty());
}

TEST_CASE("norm weights: forward and backward agree with the reference, dropped and sent on included") {
  for (const float scale : {1.0f, 2.5f})
    for (const Kind kind : reference::kKinds) {
      check_weights(SigmoidNormWeights{scale}, kind,
                    [&](const auto& z, const auto& c) { return reference::sigmoid_norm_weights(z, c, double(scale)); });
      check_weights(SqrtSoftplusNormWeights{scale}, kind, [&](const auto& z, const auto& c) {
        return reference::sqrt_softplus_norm_weights(z, c, double(scale));
      });
    }
}

// The reference with other divisors: its proposals are the token's kept experts, or its k best.
template <class S>
std::vector<S> divided_otherwise(const std::vector<S>& z, const reference::Choices& c, size_t best, double scale) {
  std::vector<S> g(c.chosen.size());
  for (size_t t = 0; t < c.tokens(); ++t) {
    const std::vector<S> row = reference::row_of(z, t, c.experts);
    std::vector<size_t> divisors;
    for (size_t i = 0; i < c.k; ++i)
      if (best == 0 && c.chosen[t * c.k + i] >= 0) divisors.push_back(size_t(c.chosen[t * c.k + i]));
    std::vector<size_t> order(c.experts);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(
        order, [&](size_t a, size_t b) { return reference::real_part(row[a]) > reference::real_part(row[b]); });
    for (size_t i = 0; i < best; ++i) divisors.push_back(order[i]);
    S sum = 0;
    for (const size_t e : divisors) sum += reference::sigmoid(row[e]);
    for (size_t i = t * c.k; i < (t + 1) * c.k; ++i)
      if (c.chosen[i] >= 0) g[i] = scale * reference::sigmoid(row[size_t(c.chosen[i])]) / sum;
  }
  return g;
}

TEST_CASE("norm weights over the kept ones or over the k best agree with the reference") {
  for (const int best : {0, 1, 2, 3, 6})
    for (const Kind kind : reference::kKinds) {
      CAPTURE(best);
      check_weights(SigmoidNormWeights{2.5f, best == 0, {best}}, kind,
                    [&](const auto& z, const auto& c) { return divided_otherwise(z, c, size_t(best), 2.5); });
    }
}

template <class Word>
void check_sums(const Word& word) {
  const Weighed all(word, 3, Kind::kAll), some(word, 3, Kind::kDropped);
  for (size_t t = 0; t < reference::kWeighTokens; ++t) {
    double sum = 0;
    for (size_t s = 0; s < reference::kWeighChoices; ++s) sum += double(all.weights[t * reference::kWeighChoices + s]);
    CHECK(sum == doctest::Approx(2.5).epsilon(1e-5));
  }
  for (size_t i = 0; i < all.weights.size(); ++i)
    if (i / reference::kWeighChoices != 1)  // the token that proposes fewer
      CHECK(some.weights[i] == (some.choices.chosen[i] < 0 ? 0 : all.weights[i]));
}

TEST_CASE("norm weights: an undropped token's sum to the scale; what is dropped does not change the others") {
  check_sums(SigmoidNormWeights{2.5f});
  check_sums(SqrtSoftplusNormWeights{2.5f});
}

// By expert: those of expert 0, then those of expert 1. Each token names both.
template <class Word>
std::vector<float> weights_of_far_scores() {
  reference::Case c(4, 1, 2);
  c.set_scores({-50, -60, -200, -300, 200, 300, 1000, -1000});
  c.set_choices({0, 1, 0, 1, 0, 1, 0, 1}, {0, 1, 0, 1, 0, 1, 0, 1});
  std::vector<float> dz(8);
  Word{}.forward(c.context(), c.routing);
  Word{}.backward(c.context(), c.routing, std::vector<float>(8, 1.0f), reference::matrix(dz, 2));
  for (const float d : dz) CHECK(std::isfinite(d));
  return c.routing.plan.weight;
}

TEST_CASE("norm weights: scores far from 0 give finite weights and gradients") {
  const auto s = weights_of_far_scores<SigmoidNormWeights>();
  CHECK(s[0] == doctest::Approx(0.0189).epsilon(0.01));  // e^-50 beside the 1e-20 of the normaliser
  CHECK((s[1] == 0 && s[5] == 0));
  CHECK((s[2] == 0.5f && s[6] == 0.5f));
  CHECK((s[3] == 1 && s[7] == 0));
  const auto r = weights_of_far_scores<SqrtSoftplusNormWeights>();
  CHECK(r[0] == doctest::Approx(1 / (1 + std::exp(-5.0))));  // e^-25 and e^-30
  CHECK(r[2] == doctest::Approx(std::sqrt(200.0) / (std::sqrt(200.0) + std::sqrt(300.0))));
  CHECK((r[3] == 1 && r[7] == 0));
}

}  // namespace
}  // namespace choir::moe
