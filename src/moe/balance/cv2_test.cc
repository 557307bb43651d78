#include "moe/balance/cv2.h"

#include "moe/reference/balance.h"
#include "moe/reference/losses.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 40, kExperts = 5, kChoices = 2;
constexpr float kWeight = 0.25f;

// Random choices, some dropped, with gates of the given size.
struct Problem {
  reference::Case c{kTokens, 1, kExperts};
  std::vector<double> gates;  // (N,E)
  Problem(double scale, uint64_t seed, double dropped = 0.2) : gates(kTokens * kExperts) {
    const auto chosen = reference::random_choices(kTokens, kChoices, kExperts, dropped, seed);
    c.set_choices(chosen, chosen);
    const auto weights = reference::random(chosen.size(), 1, seed + 1);
    for (size_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] < 0) continue;
      const float g = static_cast<float>(scale * std::abs(weights[i]));
      c.routing.plan.weight[static_cast<size_t>(c.routing.plan.edge[i])] = g;
      gates[i / kChoices * kExperts + static_cast<size_t>(chosen[i])] = static_cast<double>(g);
    }
  }
  double loss() { return Cv2{kWeight}.loss(c.context(), c.routing); }
};

TEST_CASE("cv2: texts and ranges") {
  reference::check_text<Cv2>({"cv2(0.1)", "cv2(0.1, of=load)"}, {"cv2", "cv2(-1)", "cv2(1,2)", "cv2(1,of=loads)"});
}

TEST_CASE("cv2: loss and gradient agree with the reference") {
  for (const double scale : {1e-3, 0.1, 1.0, 30.0}) {
    CAPTURE(scale);
    Problem p(scale, 3);
    CHECK(p.loss() == doctest::Approx(reference::cv2(p.gates, kExperts, 0.25)).epsilon(1e-5));
    const auto g = reference::gradients_of(Cv2{kWeight}, p.c, static_cast<float>(scale));
    const auto dg = reference::cv2_backward(p.gates, kExperts, 0.25);
    std::vector<double> want(p.c.routing.plan.token.size());
    for (size_t i = 0; i < p.c.routing.chosen.size(); ++i)
      if (const int32_t e = p.c.routing.chosen[i]; e >= 0)
        want[static_cast<size_t>(p.c.routing.plan.edge[i])] = dg[i / kChoices * kExperts + static_cast<size_t>(e)];
    CHECK(reference::close(want, g.dweight, scale));
  }
}

TEST_CASE("cv2: 0 at equal importance and without gates, E - 1 where one expert has all") {
  Problem none(1, 3, 1.0);
  CHECK(none.loss() == 0);
  CHECK(reference::gradients_of(Cv2{kWeight}, none.c).dweight.empty());
  Problem zero(0, 3);
  CHECK(zero.loss() == 0);
  for (const float d : reference::gradients_of(Cv2{kWeight}, zero.c).dweight) CHECK(d == 0);
  reference::Case c(5, 1, kExperts);
  c.set_choices({0, 1, 2, 3, 4}, {0, 1, 2, 3, 4});
  std::ranges::fill(c.routing.plan.weight, 0.5f);
  CHECK(Cv2{1}.loss(c.context(), c.routing) == 0);
  c.set_choices({3, 3, 3, 3, 3}, {3, 3, 3, 3, 3});
  std::ranges::fill(c.routing.plan.weight, 0.5f);
  CHECK(Cv2{1}.loss(c.context(), c.routing) == doctest::Approx(kExperts - 1));
}

}  // namespace
}  // namespace choir::moe
