#include "moe/weigh/sigmoid.h"

#include "moe/reference/weigh_case.h"
#include "moe/weigh/identity.h"

namespace choir::moe {
namespace {

using reference::check_weights;
using reference::Kind;
using reference::Weighed;

TEST_CASE("sigmoid weights: forward and backward agree with the reference") {
  for (const Kind kind : reference::kKinds)
    check_weights(SigmoidWeights{}, kind,
                  [](const auto& z, const auto& c) { return reference::sigmoid_weights(z, c); });
}

TEST_CASE("sigmoid_norm weights: forward and backward agree with the reference, dropped and sent on included") {
  for (const float scale : {1.0f, 2.5f}) {
    SigmoidNormWeights word;
    word.scale = scale;
    for (const Kind kind : reference::kKinds)
      check_weights(word, kind,
                    [&](const auto& z, const auto& c) { return reference::sigmoid_norm_weights(z, c, double(scale)); });
  }
}

TEST_CASE("identity weights: the score of each kept expert, and its gradient") {
  for (const Kind kind : reference::kKinds)
    check_weights(IdentityWeights{}, kind,
                  [](const auto& z, const auto& c) { return reference::identity_weights(z, c); });
}

TEST_CASE("sigmoid_norm weights: an undropped token's sum to the scale; what is dropped does not change the others") {
  SigmoidNormWeights word;
  word.scale = 2.5f;
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

TEST_CASE("sigmoid weights: scores far from 0 give finite weights and gradients") {
  reference::Case c(4, 1, 2);
  c.set_scores({-50, -60, -200, -300, 200, 300, 1000, -1000});
  c.set_choices({0, 1, 0, 1, 0, 1, 0, 1}, {0, 1, 0, 1, 0, 1, 0, 1});
  const std::vector<float> dweight(8, 1.0f);
  std::vector<float> dz(8);
  const SigmoidNormWeights norm;
  norm.forward(c.context(), c.routing);
  norm.backward(c.context(), c.routing, dweight, reference::matrix(dz, 2));
  const auto& g = c.routing.plan.weight;                 // by expert
  CHECK(g[0] == doctest::Approx(0.0189).epsilon(0.01));  // e^-50 beside the 1e-20 of the normaliser
  CHECK((g[1] == 0 && g[5] == 0));
  CHECK((g[2] == 0.5f && g[6] == 0.5f));
  CHECK((g[3] == 1 && g[7] == 0));
  SigmoidWeights{}.forward(c.context(), c.routing);
  CHECK((g[1] == 0 && g[2] == 1 && g[3] == 1));
  SigmoidWeights{}.backward(c.context(), c.routing, dweight, reference::matrix(dz, 2));
  for (const float d : dz) CHECK(std::isfinite(d));
}

}  // namespace
}  // namespace choir::moe
