#include "moe/weigh/sigmoid.h"

#include "moe/reference/weigh_case.h"
#include "moe/reference/words.h"
#include "moe/weigh/identity.h"

namespace choir::moe {
namespace {

using reference::check_weights;
using reference::Kind;

TEST_CASE("sigmoid weights: forward and backward agree with the reference") {
  for (const Kind kind : reference::kKinds)
    for (const float scale : {1.0f, 2.5f})
      check_weights(SigmoidWeights{scale}, kind, [&](const auto& z, const auto& c) {
        auto g = reference::sigmoid_weights(z, c);
        for (auto& v : g) v *= double(scale);
        return g;
      });
  reference::check_text<SigmoidWeights>({"sigmoid", "sigmoid(scale=2.5)"}, {"sigmoid(0)", "sigmoid(1, 2)"});
}

TEST_CASE("identity weights: the score of each kept expert, and its gradient") {
  for (const Kind kind : reference::kKinds)
    check_weights(IdentityWeights{}, kind,
                  [](const auto& z, const auto& c) { return reference::identity_weights(z, c); });
}

TEST_CASE("sigmoid weights: scores far from 0 give finite weights and gradients") {
  reference::Case c(4, 1, 2);
  c.set_scores({-50, -60, -200, -300, 200, 300, 1000, -1000});
  c.set_choices({0, 1, 0, 1, 0, 1, 0, 1}, {0, 1, 0, 1, 0, 1, 0, 1});
  std::vector<float> dz(8);
  SigmoidWeights{}.forward(c.context(), c.routing);
  const auto& g = c.routing.plan.weight;  // by expert
  CHECK((g[1] == 0 && g[2] == 1 && g[3] == 1));
  SigmoidWeights{}.backward(c.context(), c.routing, std::vector<float>(8, 1.0f), reference::matrix(dz, 2));
  for (const float d : dz) CHECK(std::isfinite(d));
}

}  // namespace
}  // namespace choir::moe
