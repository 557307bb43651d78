#include "moe/weigh/softmax.h"

#include "moe/reference/weigh_case.h"
#include "moe/reference/words.h"

namespace choir::moe {
namespace {

using reference::check_weights;
using reference::Kind;
using reference::Weighed;

TEST_CASE("softmax weights: forward and backward agree with the reference") {
  for (const float scale : {1.0f, 2.5f}) {
    SoftmaxWeights plain;
    plain.scale = scale;
    for (const Kind kind : reference::kKinds)
      check_weights(plain, kind, [&](const auto& z, const auto& c) {
        auto g = reference::softmax_weights(z, c);
        for (auto& v : g) v *= double(scale);
        return g;
      });
  }
}

// e^z_e over the sum of the proposed, so that an expert that a dropped choice was sent to is measured by the same sum.
template <class S>
std::vector<S> renormalised(const std::vector<S>& z, const reference::Choices& c, double scale) {
  const auto p = reference::softmax_rows(z, c.experts);
  std::vector<S> all(z.size(), S(0));
  for (size_t t = 0; t < c.tokens(); ++t) {
    S sum = 0;
    for (size_t e = 0; e < c.experts; ++e)
      if (reference::is_proposed(c, t, e)) sum += p[t * c.experts + e];
    if (reference::real_part(sum) > 0)
      for (size_t e = 0; e < c.experts; ++e) all[t * c.experts + e] = scale * p[t * c.experts + e] / sum;
  }
  return reference::at_slots(all, c);
}

TEST_CASE("softmax weights: renormalised over the proposals, forward and backward agree with the reference") {
  SoftmaxWeights word;
  word.renorm = true;
  for (const float scale : {1.0f, 2.5f}) {
    word.scale = scale;
    for (const Kind kind : reference::kKinds)
      check_weights(word, kind, [&](const auto& z, const auto& c) { return renormalised(z, c, double(scale)); });
  }
}

TEST_CASE("softmax weights: a token's weights sum to at most 1, renormalised and undropped to 1") {
  for (const bool renorm : {false, true}) {
    SoftmaxWeights word;
    word.renorm = renorm;
    const auto g = Weighed(word, 3, Kind::kAll).weights;
    for (size_t t = 0; t < reference::kWeighTokens; ++t) {
      double sum = 0;
      for (size_t s = 0; s < reference::kWeighChoices; ++s) sum += double(g[t * reference::kWeighChoices + s]);
      if (renorm)
        CHECK(sum == doctest::Approx(1).epsilon(1e-5));
      else
        CHECK(sum < 1 + 1e-6);
    }
  }
}

TEST_CASE("softmax weights: what is dropped does not change the other weights") {
  for (const bool renorm : {false, true}) {
    SoftmaxWeights word;
    word.renorm = renorm;
    const Weighed all(word, 3, Kind::kAll), some(word, 3, Kind::kDropped);
    for (size_t i = 0; i < all.weights.size(); ++i)
      if (!renorm || i / reference::kWeighChoices != 1)  // the token that proposes fewer
        CHECK(some.weights[i] == (some.choices.chosen[i] < 0 ? 0 : all.weights[i]));
  }
}

TEST_CASE("softmax weights: one expert alone passes a gradient, which the renormalised one does not") {
  for (const bool renorm : {false, true}) {
    SoftmaxWeights word;
    word.renorm = renorm;
    reference::Case c(1, 1, 3);
    c.set_scores({0.5f, 1, -1});
    c.set_choices({1}, {1});
    word.forward(c.context(), c.routing);
    std::vector<float> dz(3);
    word.backward(c.context(), c.routing, std::vector<float>{2}, reference::matrix(dz, 3));
    for (const float d : dz) CHECK((std::abs(d) > 0.05f) == !renorm);
  }
}

TEST_CASE("softmax weights: the release rule, worked by hand") {
  reference::check_text<SoftmaxWeights>({"softmax(renorm, release)"}, {"softmax(release)"});
  const auto word = reference::read_word<SoftmaxWeights>("softmax(renorm,release)");
  reference::Case c(3, 1, 4);  // expert 2 gives 0, expert 3 copies
  c.idle = 2;
  const float two = std::log(2.0f);
  c.set_scores({0, two, 5, 0, 1, 2, 3, 4, 0, 0, 9, 0});
  c.set_choices({2, 1, 3, 2, 2, -1}, {2, 1, 3, 2, 2, -1});
  for (const int zero : {0, 1}) {
    c.zero = zero;
    word.forward(c.context(), c.routing);
    const auto weight = [&](size_t slot) {
      return c.routing.plan.weight[static_cast<size_t>(c.routing.plan.edge[slot])];
    };
    CHECK(c.routing.plan.input == 2);
    const float rest = 2 / (2 + std::exp(5.0f));
    CHECK(weight(0) == doctest::Approx(zero ? 0 : 1 - rest));
    CHECK(weight(1) == doctest::Approx(zero ? 1 : rest));
    CHECK(weight(2) == doctest::Approx(zero ? 1 : 1 / (1 + std::exp(-1.0f))));
    CHECK(weight(4) == (zero ? 0 : 1));  // a zero expert alone
    std::vector<float> dz(12);
    word.backward(c.context(), c.routing, std::vector<float>(5, 1.0f), reference::matrix(dz, 4));
    for (const float d : dz) CHECK(std::isfinite(d));
  }
}

TEST_CASE("softmax weights: renormalised over proposals that have no probability left") {
  SoftmaxWeights word;
  word.renorm = true;
  reference::Case c(1, 1, 4);
  c.set_scores({300, 0, 1, 2});
  c.set_choices({2, 1}, {2, 1});
  word.forward(c.context(), c.routing);
  const float p = 1 / (1 + std::exp(-1.0f));
  CHECK(c.routing.plan.weight[1] == doctest::Approx(p));
  CHECK(c.routing.plan.weight[0] == doctest::Approx(1 - p));
  std::vector<float> dz(4);
  word.backward(c.context(), c.routing, std::vector<float>{0, 1}, reference::matrix(dz, 4));
  CHECK(dz[2] == doctest::Approx(p * (1 - p)));
  CHECK(dz[1] == doctest::Approx(-p * (1 - p)));
  CHECK(dz[0] == 0);
}

}  // namespace
}  // namespace choir::moe
