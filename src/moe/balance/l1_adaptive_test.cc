#include "moe/balance/l1_adaptive.h"

#include "moe/propose/positive.h"
#include "moe/reference/balance.h"
#include "moe/reference/losses.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 30, kExperts = 5;

TEST_CASE("l1_adaptive: texts, ranges, what fits, the first lambda") {
  reference::check_text<L1Adaptive>(
      {"l1_adaptive(1)", "l1_adaptive(2.5, lambda=0.001, factor=1.1)"},
      {"l1_adaptive", "l1_adaptive(0)", "l1_adaptive(1,factor=0.5)", "l1_adaptive(1,lambda=0)"});
  CHECK(L1Adaptive{2}.misfit(2, 64).empty());
  CHECK(!L1Adaptive{3}.misfit(2, 64).empty());
  std::vector<float> state(1);
  L1Adaptive{2, 0.5f}.initial(state);
  CHECK(state[0] == 0.5f);
}

struct Problem {
  reference::Case c{kTokens, 1, kExperts};
  std::vector<double> z;
  explicit Problem(double scale, bool padded = false) : z(reference::random(kTokens * kExperts, scale, 3)) {
    if (padded)
      for (int t = 0; t < kTokens; ++t) c.padding.push_back(t % 3 == 1);
    c.set_scores(reference::narrow(z));
    auto proposed = reference::proposals(Positive{}, c, reference::narrow(z));
    for (int t = 0; t < kTokens; ++t)
      if (padded && c.padding[static_cast<size_t>(t)]) std::fill_n(proposed.begin() + t * kExperts, kExperts, -1);
    c.set_choices(proposed, proposed);
    c.state = {0.25f};
  }
};

TEST_CASE("l1_adaptive: loss and gradient agree with the reference, with and without padding") {
  for (const double scale : {1e-3, 1.0, 20.0})
    for (const bool padded : {false, true}) {
      CAPTURE(scale);
      CAPTURE(padded);
      Problem p(scale, padded);
      const double want = reference::l1(p.z, p.c.routing.proposed, kExperts, 0.25, p.c.padding);
      CHECK(L1Adaptive{1}.loss(p.c.context(), p.c.routing) == doctest::Approx(want).epsilon(1e-5));
      CHECK(reference::close(reference::l1_backward(p.z, p.c.routing.proposed, kExperts, 0.25, p.c.padding),
                             reference::gradients_of(L1Adaptive{1}, p.c).dz));
    }
}

TEST_CASE("l1_adaptive: shares of the whole step take the place of the call's own") {
  Problem p(1);
  const double alone = L1Adaptive{1}.loss(p.c.context(), p.c.routing);
  for (const double f : reference::shares(p.c.routing.proposed, kExperts)) p.c.shares.push_back(static_cast<float>(f));
  CHECK(L1Adaptive{1}.loss(p.c.context(), p.c.routing) == doctest::Approx(alone).epsilon(1e-6));
  p.c.shares.assign(kExperts, 0);
  CHECK(L1Adaptive{1}.loss(p.c.context(), p.c.routing) == 0);
}

TEST_CASE("l1_adaptive: lambda follows the number of experts of a token") {
  Problem p(1, true);
  const auto proposals = static_cast<float>(std::ranges::count_if(p.c.routing.proposed, [](int e) { return e >= 0; }));
  const float tokens = 20;
  std::vector<float> sums(2);
  L1Adaptive{1}.observe(p.c.context(), p.c.routing, sums);
  CHECK(sums == std::vector<float>{tokens, proposals});
  const auto after = [&](float k, float lambda) {
    std::vector<float> state{lambda};
    L1Adaptive{k}.update(sums, state);
    return state[0];
  };
  CHECK(after(1, 1) == 1.2f);
  CHECK(after(4.5f, 1) == 1 / 1.2f);
  CHECK(after(proposals / tokens, 1) == 1);
  CHECK(after(4.5f, 1e-30f) == 1e-30f);  // never 0
  CHECK(after(1, 1e6f) == 1e6f);         // never infinite
}

TEST_CASE("l1_adaptive: no positive score costs nothing") {
  Problem p(1);
  p.c.set_scores(std::vector<float>(kTokens * kExperts));
  CHECK(L1Adaptive{1}.loss(p.c.context(), p.c.routing) == 0);
  for (const float d : reference::gradients_of(L1Adaptive{1}, p.c).dz) CHECK(d == 0);
}

}  // namespace
}  // namespace choir::moe
