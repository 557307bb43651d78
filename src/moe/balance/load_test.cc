#include "moe/balance/load.h"

#include <doctest/doctest.h>

#include "kernels/softmax.h"
#include "moe/propose/top_k.h"
#include "moe/reference/case.h"
#include "moe/reference/layer.h"
#include "tests/gradients/complex_step.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 20, kExperts = 5, kChoices = 2;
constexpr double kAlpha = 0.25;  // exact in float

struct Problem {
  std::vector<double> z;
  std::vector<float> zf;
  std::vector<int32_t> proposed;

  explicit Problem(double scale, uint64_t seed = 1)
      : z(reference::random(kTokens * kExperts, scale, seed)), zf(reference::narrow(z)) {
    reference::Case c(kTokens, 1, kExperts);
    TopK{kChoices}.propose(c.context(), reference::matrix(zf, kExperts), proposed);
  }
  double expected() const { return reference::load_loss(z, proposed, kExperts, kAlpha); }
};

// A routing with these scores and proposals; the probabilities are those that a router would compute.
struct Routed : reference::Case {
  Routed(const std::vector<float>& z, const std::vector<int32_t>& proposed, int e)
      : Case(static_cast<int>(z.size()) / e, 1, e) {
    set_scores(z);
    kernels::softmax_forward(routing.score.matrix(rows, e), routing.probability.matrix(rows, e), routing.log_sum.span(),
                             threads);
    set_choices(proposed, proposed);
  }
};

double loss_of(const std::vector<float>& z, const std::vector<int32_t>& proposed, int experts, double alpha = kAlpha) {
  Routed r(z, proposed, experts);
  return LoadBalance{static_cast<float>(alpha)}.loss(r.context(), r.routing);
}

std::vector<float> gradient_of(const std::vector<float>& z, const std::vector<int32_t>& proposed, int experts) {
  Routed r(z, proposed, experts);
  std::vector<float> dz(z.size(), 1.0f);
  LoadBalance{static_cast<float>(kAlpha)}.backward(r.context(), r.routing, {reference::matrix(dz, experts), {}, {}});
  for (float& d : dz) d -= 1;  // the gradient is added to what is there
  return dz;
}

TEST_CASE("load: the double backward agrees with the complex step") {
  for (const double scale : {0.1, 1.0, 5.0}) {
    const Problem p(scale);
    const auto derivative = complex_step(p.z, [&](const std::vector<std::complex<double>>& z) {
      return reference::load_loss(z, p.proposed, kExperts, kAlpha);
    });
    CHECK(reference::error(derivative, reference::load_loss_backward(p.z, p.proposed, kExperts, kAlpha)) < 1e-12);
  }
}

TEST_CASE("load: loss and gradient agree with the reference") {
  for (const double scale : {0.1, 1.0, 5.0, 50.0}) {
    CAPTURE(scale);
    const Problem p(scale);
    CHECK(loss_of(p.zf, p.proposed, kExperts) == doctest::Approx(p.expected()).epsilon(1e-5));
    // The gradient is a difference of numbers near alpha / N: its error is measured against those.
    const auto want = reference::load_loss_backward(p.z, p.proposed, kExperts, kAlpha);
    const auto got = gradient_of(p.zf, p.proposed, kExperts);
    for (size_t i = 0; i < want.size(); ++i)
      CHECK(std::abs(want[i] - static_cast<double>(got[i])) < 1e-5 * kAlpha * kExperts / kTokens + 1.2e-7);
  }
}

TEST_CASE("load: equal shares of proposals give alpha, whatever the probabilities, and no gradient") {
  const int experts = 4;
  const auto z = reference::narrow(reference::random(16 * experts, 2, 1));
  std::vector<int32_t> even;
  for (int t = 0; t < 16; ++t) even.insert(even.end(), {t % experts, (t + 1) % experts});
  CHECK(loss_of(z, even, experts) == doctest::Approx(kAlpha).epsilon(1e-6));
  for (const float d : gradient_of(z, even, experts)) CHECK(std::abs(d) < 2e-7f);
}

TEST_CASE("load: equal probabilities give alpha, whatever the shares") {
  CHECK(loss_of(std::vector<float>(40, 0.5f), std::vector<int32_t>(10, 3), 4) == doctest::Approx(kAlpha).epsilon(1e-6));
}

TEST_CASE("load: positive, and at most alpha E / K; reached when one set of K experts takes all") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Problem p(static_cast<double>(seed), seed);
    const double loss = loss_of(p.zf, p.proposed, kExperts);
    CHECK(loss > 0);
    CHECK(loss <= kAlpha * kExperts / kChoices * (1 + 1e-6));
  }
  std::vector<float> z;
  std::vector<int32_t> proposed;
  for (int t = 0; t < kTokens; ++t) {
    z.insert(z.end(), {-40, 0, -40, 0, -40});
    proposed.insert(proposed.end(), {1, 3});
  }
  CHECK(loss_of(z, proposed, kExperts) == doctest::Approx(kAlpha * kExperts / kChoices).epsilon(1e-6));
}

TEST_CASE("load: may lie below alpha when shares and probabilities are ordered against each other") {
  std::vector<float> z;
  std::vector<int32_t> proposed;
  for (int t = 0; t < 100; ++t) {  // 51 tokens barely prefer expert 0, 49 are sure of expert 1
    z.push_back(t < 51 ? std::log(0.51f / 0.49f) : -60.0f);
    z.push_back(0);
    proposed.push_back(t < 51 ? 0 : 1);
  }
  CHECK(loss_of(z, proposed, 2, 1) == doctest::Approx(0.9904).epsilon(1e-4));
}

TEST_CASE("load: doubling the batch changes nothing, changing the router does") {
  const Problem p(1);
  auto z = p.zf;
  auto proposed = p.proposed;
  z.insert(z.end(), p.zf.begin(), p.zf.end());
  proposed.insert(proposed.end(), p.proposed.begin(), p.proposed.end());
  CHECK(loss_of(z, proposed, kExperts) == doctest::Approx(loss_of(p.zf, p.proposed, kExperts)).epsilon(1e-6));
  CHECK(std::abs(loss_of(Problem(1, 2).zf, Problem(1, 2).proposed, kExperts) - p.expected()) > 1e-4);
}

TEST_CASE("load: without proposals there is no loss and no gradient") {
  const std::vector<float> z{1, 2, 3, 4};
  CHECK(loss_of(z, {-1, -1}, 2) == 0);
  CHECK(gradient_of(z, {-1, -1}, 2) == std::vector<float>(4));
  CHECK(loss_of({}, {}, 2) == 0);
}

TEST_CASE("load: a part of a step that proposes nothing has a loss by the shares of the step") {
  Routed r({1, 2, 3, 4}, {-1, -1}, 2);
  r.shares = {1, 0};
  const float p = 1 / (1 + std::exp(1.0f));
  CHECK(LoadBalance{kAlpha}.loss(r.context(), r.routing) == doctest::Approx(kAlpha * 2 * p).epsilon(1e-6));
  r.padding = {1, 1};
  CHECK(LoadBalance{kAlpha}.loss(r.context(), r.routing) == 0);
}

}  // namespace
}  // namespace choir::moe
