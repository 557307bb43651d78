#include "moe/admit/capacity.h"

#include <doctest/doctest.h>

#include "moe/admit/top_capacity.h"
#include "moe/reference/binomial.h"
#include "moe/reference/capacity.h"
#include "moe/reference/case.h"
#include "moe/reference/selection.h"
#include "moe/router.h"

namespace choir::moe {
namespace {

using doctest::Approx;

Capacity capacity(std::string text) {
  std::erase(text, ' ');
  const Phrase word{"", "admit", {parse_phrase(text)}};
  Arguments around(word);
  return Capacity::read(around.phrase("capacity"), around);
}

int tokens_of(const Capacity& c, int n, int experts, int k, std::vector<float> state = {}) {
  reference::Case made(n, 1, experts);
  made.state = std::move(state);
  return c.tokens(made.context(), k);
}

TEST_CASE("capacity: ceil(factor K N / E) in whole numbers") {
  CHECK(tokens_of(capacity("factor(1.1)"), 400, 8, 1) == 55);  // ceil(1.1 * 50) is 56 in doubles
  CHECK(tokens_of(capacity("factor(1.1)"), 1024, 8, 1) == 141);
  CHECK(tokens_of(capacity("factor(0.66)"), 1024, 8, 1) == 85);
  CHECK(tokens_of(capacity("factor"), 1024, 8, 1) == 141);
  CHECK(tokens_of(capacity("factor(0.001)"), 10, 8, 1) == 1);  // never 0
  for (const int permille : {660, 1000, 1100, 1250, 2000})
    for (const int n : {1, 7, 50, 90, 1024})
      for (const int k : {1, 2})
        for (const int tile : {1, 16}) {
          Capacity c;
          c.factor_permille = permille;
          c.tile = tile;
          const int64_t want = std::min<int64_t>(n, reference::factor_capacity(permille, {n, 8, k}));
          CHECK(tokens_of(c, n, 8, k) == (want + tile - 1) / tile * tile);
        }
}

TEST_CASE("capacity: by token the number of choices does not count") {
  for (const int k : {1, 2, 8}) {
    CHECK(tokens_of(capacity("factor(2, per=token)"), 100, 8, k) == 25);
    CHECK(tokens_of(capacity("etr_sum(per=token, hi=2)"), 100, 8, k, {0}) == 25);
  }
  CHECK(tokens_of(capacity("factor(0.5)"), 100, 8, 8) == 50);
}

TEST_CASE("capacity: N counts tokens, not padding") {
  reference::Case c(500, 1, 8);
  c.padding.assign(500, 0);
  std::fill_n(c.padding.begin(), 100, 1);
  CHECK(capacity("factor(1.1)").tokens(c.context(), 1) == 55);
  c.state = {0};
  CHECK(capacity("etr_sum").tokens(c.context(), 1) == 55);
}

TEST_CASE("capacity: before the first step a tracked share is hi, rounded as the factor is") {
  for (const int n : {400, 720, 800, 880, 1360, 1024})
    CHECK(tokens_of(capacity("etr_sum"), n, 8, 1, {0}) == tokens_of(capacity("factor(1.1)"), n, 8, 1));
}

TEST_CASE("capacity: a tracked share is clamped, then rounded up to the tile") {
  CHECK(tokens_of(capacity("etr_sum(lo=0.5)"), 1024, 8, 1, {0.1f}) == 64);
  CHECK(tokens_of(capacity("etr_sum(lo=0.5)"), 1024, 8, 1, {0.75f}) == 96);
  CHECK(tokens_of(capacity("etr_sum(lo=0.5)"), 1024, 8, 1, {9}) == 141);
  CHECK(tokens_of(capacity("etr_sum(lo=0.5, tile=16)"), 1024, 8, 1, {9}) == 144);
  CHECK(tokens_of(capacity("etr_sum(lo=0.5, tile=32)"), 1024, 8, 1, {0.76f}) == 128);
  for (int count = 33; count <= 140; ++count)  // a share of whole tokens gives these back
    CHECK(tokens_of(capacity("etr_sum"), 1024, 8, 1, {static_cast<float>(count) / 128}) == count);
}

// One step of the capacity alone, at affinities (N,E).
float step(const Capacity& c, const std::vector<double>& delta, int experts, int k, std::vector<float>& state,
           int width = 64) {
  const int n = static_cast<int>(delta.size()) / experts;
  reference::Case made(n, width, experts);
  made.routing.proposed = reference::top_k(delta, size_t(experts), size_t(k));
  std::vector<float> key, sums(Capacity::kSums);
  for (size_t i = 0; i < made.routing.proposed.size(); ++i)
    key.push_back(static_cast<float>(delta[i / size_t(k) * size_t(experts) + size_t(made.routing.proposed[i])]));
  made.state = state;
  c.observe(made.context(), made.routing, key, sums);
  c.update(sums, state);
  return sums[1];
}

// The reference's largest count over experts, as a share of K N / E.
double etr_share(const std::vector<double>& delta, int experts, int k, double tau) {
  const auto counts =
      reference::etr_sum(reference::top_k(delta, size_t(experts), size_t(k)), delta, size_t(k), size_t(experts), tau);
  return double(*std::max_element(counts.begin(), counts.end())) * experts / (k * double(delta.size()) / experts);
}

TEST_CASE("capacity: etr_sum takes the fewest that hold tau of the affinity; the golden counts") {
  const std::vector<double> golden{1,        0,        0.707107, 0.471405, 0.565685, 0.424264,
                                   0.235702, 0.942809, 0.942809, 0.235702, 0.424264, 0.565685};
  for (const auto& [tau, count] : {std::pair{"0.7", 3}, {"0.76", 3}, {"0.9", 4}}) {
    std::vector<float> state{0};
    CHECK(step(capacity(std::string("etr_sum(lo=0, hi=5, tau=") + tau + ")"), golden, 2, 1, state) ==
          Approx(count / 3.0).epsilon(1e-6));
  }
  for (const int experts : {2, 5, 8})
    for (const int k : {1, 2})
      for (const char* tau : {"0.1", "0.5", "0.76", "1"}) {
        std::vector<float> state{0};
        const auto delta = reference::random(size_t(60 * experts), 0.3, 5);
        const Capacity c = capacity(std::string("etr_sum(lo=0, hi=100, tau=") + tau + ")");
        CHECK(step(c, delta, experts, k, state) == Approx(etr_share(delta, experts, k, double(*c.tau))).epsilon(1e-6));
      }
}

TEST_CASE("capacity: etr_sum grows with tau and does not see the order of tokens") {
  auto delta = reference::random(50 * 4, 0.3, 6);
  float before = 0;
  for (const char* tau : {"0.1", "0.3", "0.5", "0.7", "0.9", "1"}) {
    const Capacity c = capacity(std::string("etr_sum(lo=0, hi=100, tau=") + tau + ")");
    std::vector<float> state{0}, other{0};
    const float share = step(c, delta, 4, 1, state);
    CHECK(share >= before);
    before = share;
    auto turned = delta;
    for (size_t t = 0; t < 50; ++t)
      std::copy_n(delta.begin() + ptrdiff_t(4 * t), 4, turned.begin() + ptrdiff_t(4 * ((t * 7) % 50)));
    CHECK(step(c, turned, 4, 1, other) == share);
    CHECK(other == state);
  }
}

TEST_CASE("capacity: the share moves by 1 - decay, from hi on") {
  const Capacity c = capacity("etr_sum(lo=0.1, hi=2, decay=0.75, tau=0.5)");
  std::vector<float> state{0};
  double tracked = 2;
  for (uint64_t seed = 1; seed < 6; ++seed) {
    const auto delta = reference::random(40 * 4, 0.3, seed);
    step(c, delta, 4, 1, state);
    tracked = reference::capacity_mean(tracked, etr_share(delta, 4, 1, 0.5), 0.75);
    CHECK(state[0] == Approx(tracked).epsilon(1e-5));
  }
  std::vector<float> unmoved = state;
  c.update(std::vector<float>(2), unmoved);
  CHECK(unmoved == state);
}

TEST_CASE("capacity: etr_bound is e^z / E of the largest cosine, or of that which one token in N exceeds") {
  std::vector<double> delta(1024 * 8);
  for (size_t t = 0; t < 1024; ++t) delta[t * 8 + t % 8] = 0.01;
  delta[0] = 0.05;
  delta[8 * 8] = 0.048;  // the second of expert 0
  std::vector<float> state{0};
  const auto tokens = [](double share) { return share * 1024 / 8; };
  CHECK(tokens(double(step(capacity("etr_bound(lo=0, hi=5)"), delta, 8, 1, state, 4096))) ==
        Approx(std::exp(reference::log_bound(0.05, 4096, 8))).epsilon(1e-4));
  CHECK(tokens(double(step(capacity("etr_bound(lo=0, hi=5, stat=quantile)"), delta, 8, 1, state, 4096))) ==
        Approx(std::exp(reference::log_bound(0.048, 4096, 8))).epsilon(1e-4));
  delta[0] = 1;  // e^4096
  CHECK(step(capacity("etr_bound"), delta, 8, 1, state, 4096) == 1.1f);
}

// exp of the bound at D = 4096, E = 8, worked out beside the formula.
TEST_CASE("capacity: the log of the least capacity") {
  for (const auto& [cosine, tokens] : {std::pair{0.02, 0.2836}, {0.03, 0.7902}, {0.06, 201.7}, {0.1, 1.086e8}})
    CHECK(std::exp(log_min_capacity(cosine, 4096, 8)) == Approx(tokens).epsilon(1e-3));
  CHECK(log_min_capacity(1, 4096, 8) == Approx(4096 - std::log(8.0)));
  CHECK(log_min_capacity(-0.5, 4096, 8) == Approx(-std::log(8.0)));
}

TEST_CASE("capacity: theory is twice the tokens that beat the expert's token of the given rank") {
  std::vector<double> delta(100 * 4);
  for (size_t t = 0; t < 100; ++t) delta[t * 4 + (t < 40 ? 0 : 1 + t % 3)] = 0.1 + 0.001 * double(t);
  for (const auto& [rank, tokens] : {std::pair{"0.5", 40.0}, {"0.75", 20.0}, {"0", 80.0}}) {  // of the 40 of expert 0
    std::vector<float> state{0};
    const Capacity c = capacity(std::string("theory(lo=0, hi=5, decay=0, rank=") + rank + ")");
    CHECK(double(step(c, delta, 4, 1, state)) * 25 == Approx(tokens).epsilon(1e-6));
    CHECK(tokens_of(c, 100, 4, 1, state) == tokens);
  }
}

TEST_CASE("capacity: locmoe keeps what the first batch gave") {
  const Capacity c = capacity("locmoe(lo=0, hi=5)");
  std::vector<double> delta(100 * 4);
  for (size_t t = 0; t < 100; ++t) delta[t * 4 + t % 4] = 0.04;
  std::vector<float> state{0};
  const float share = step(c, delta, 4, 1, state, 4096);
  CHECK(state[0] == share);
  CHECK(double(share) * 25 == Approx(std::exp(reference::log_bound(0.04, 4096, 4))).epsilon(1e-4));
  for (double& d : delta) d *= 2;
  CHECK(step(c, delta, 4, 1, state, 4096) == 5);
  CHECK(state[0] == share);
}

TEST_CASE("capacity: nothing but zero affinities tracks the least share and not the largest") {
  const Capacity c = capacity("etr_sum(lo=0, hi=2, decay=0)");
  std::vector<float> state{0};
  step(c, std::vector<double>(40), 4, 1, state);
  CHECK(tokens_of(c, 40, 4, 1, state) == 1);
}

TEST_CASE("capacity: never more than there are tokens, whatever the factors") {
  Capacity c = capacity("factor(1000, eta=10)");
  CHECK(tokens_of(c, 1000, 8, 2) == 1000);
  CHECK(tokens_of(c, 40000, 1, 1) == 40000);
  c.tile = 16;
  CHECK(tokens_of(c, 1000, 8, 2) == 1008);
  CHECK(tokens_of(capacity("etr_sum(hi=1000)"), 1000, 8, 2, {900}) == 1000);
  reference::Case idle(300, 1, 8);  // three experts with weights, five without
  idle.idle = 5;
  for (const int count : capacity("factor(1000, eta=10)").of_experts(idle.context(), 2)) CHECK(count == 300);
}

TEST_CASE("capacity: the default tau keeps 60 % of isotropic tokens") {
  for (const int experts : {2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 96, 128, 256}) {
    CAPTURE(experts);
    CHECK(std::abs(reference::kept_share(double(default_tau(experts)), experts) - 0.6) < 0.006);
  }
}

TEST_CASE("capacity: etr_sum averages what it saw and clamps the mean") {
  const std::vector<double> delta(40, 0.5);  // all of 10 tokens go to expert 0 of 4
  std::vector<float> state{0};
  CHECK(step(capacity("etr_sum(tau=0.05, lo=0.9, decay=0)"), delta, 4, 1, state) == Approx(1 / 2.5));
  CHECK(state[0] == Approx(1 / 2.5));
  CHECK(tokens_of(capacity("etr_sum(lo=0.9)"), 40, 4, 1, state) == 9);
}

TEST_CASE("capacity: a NaN counts nowhere") {
  for (const char* text : {"etr_sum(lo=0, hi=100, tau=0.7)", "etr_bound(lo=0, hi=100)", "theory(lo=0, hi=100)",
                           "etr_bound(lo=0, hi=100, stat=quantile)"}) {
    const Capacity c = capacity(text);
    const auto run = [&](float spoilt) {
      reference::Case made(60, 64, 2);
      std::vector<float> key, sums(Capacity::kSums);
      for (int t = 0; t < 60; ++t) {
        made.routing.proposed.push_back(t % 7 == 0 && spoilt == 0 ? -1 : t % 2);
        key.push_back(t % 7 == 0 ? spoilt : 0.004f * float(t));
      }
      c.observe(made.context(), made.routing, key, sums);
      return sums[1];
    };
    CHECK(run(NAN) == run(0));
  }
}

}  // namespace
}  // namespace choir::moe
