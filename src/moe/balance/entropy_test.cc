#include "moe/balance/entropy.h"

#include "moe/reference/balance.h"
#include "moe/reference/losses.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 30, kExperts = 5;

TEST_CASE("entropy: texts and ranges") {
  reference::check_text<Entropy>({"entropy(0.0001)"}, {"entropy", "entropy(-1)", "entropy(1,2)"});
}

TEST_CASE("entropy: loss and gradient agree with the reference, with and without padding") {
  for (const double scale : {1e-3, 0.3, 1.0, 5.0, 60.0})
    for (const bool padded : {false, true}) {
      CAPTURE(scale);
      CAPTURE(padded);
      reference::Case c(kTokens, 1, kExperts);
      if (padded)
        for (int t = 0; t < kTokens; ++t) c.padding.push_back(t % 3 == 1);
      const auto z = reference::random(kTokens * kExperts, scale, 3);
      c.set_scores(reference::narrow(z));
      const double want = reference::entropy(z, kExperts, 0.25, c.padding);
      CHECK(std::abs(Entropy{0.25f}.loss(c.context(), c.routing) - want) < 1e-5 * want + 1e-7);
      // The gradient is a difference of numbers near c / N: its error is measured against those.
      const auto dz = reference::entropy_backward(z, kExperts, 0.25, c.padding);
      const auto got = reference::gradients_of(Entropy{0.25f}, c).dz;
      for (size_t i = 0; i < dz.size(); ++i)
        CHECK(std::abs(dz[i] - static_cast<double>(got[i])) < 1e-5 * 0.25 / kTokens + 1.5e-7);
    }
}

TEST_CASE("entropy: log E at equal scores, without gradient; masked experts do not count; no tokens give 0") {
  reference::Case c(kTokens, 1, kExperts);
  std::vector<float> z(kTokens * kExperts, 2.0f);
  c.set_scores(z);
  CHECK(Entropy{1}.loss(c.context(), c.routing) == doctest::Approx(std::log(5.0)).epsilon(1e-6));
  for (const float d : reference::gradients_of(Entropy{1}, c).dz) CHECK(std::abs(d) < 1e-6f);
  for (size_t i = 0; i < z.size(); i += kExperts) z[i] = -HUGE_VALF;
  c.set_scores(z);
  CHECK(Entropy{1}.loss(c.context(), c.routing) == doctest::Approx(std::log(4.0)).epsilon(1e-6));
  for (const float d : reference::gradients_of(Entropy{1}, c).dz) CHECK(std::abs(d) < 1e-6f);
  c.padding.assign(kTokens, 1);
  CHECK(Entropy{1}.loss(c.context(), c.routing) == 0);
}

}  // namespace
}  // namespace choir::moe
