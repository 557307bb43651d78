// Routers on tokens of independent channels, against quadrature and exact sums.
#include <doctest/doctest.h>

#include "moe/reference/binomial.h"
#include "moe/reference/route_case.h"

namespace choir::moe {
namespace {

using reference::edges;
using reference::Routed;

double kept_share(const Routed& r) { return double(edges(r.routing.chosen)) / double(edges(r.routing.proposed)); }

double largest_share(const Routed& r) {
  int most = 0;
  for (int e = 0; e < r.experts; ++e) most = std::max(most, r.load(e));
  return double(most) / std::max(1, r.routing.plan.edges());
}

// The capacity is that of the expert that needs most: with few tokens chance alone makes it larger.
TEST_CASE("isotropic tokens: the default capacity keeps 60 % of the proposals") {
  const int n = 49152;
  for (const int experts : {8, 16}) {
    CAPTURE(experts);
    Routed r("grap_cosine > top_k(1) > top_capacity(etr_sum(decay=0)) > softmax", n, 192, experts);
    r.route();
    r.update();
    r.route();
    CHECK(std::abs(kept_share(r) - 0.6) < 0.02);  // the capacity is that of the fullest expert
  }
}

// The rule that is not ours: the token's own choice and the expert's choice among all tokens, at once.
TEST_CASE("isotropic tokens: an intersection of both choices would keep fewer, 1 - (1 - C/N)^E") {
  const int n = 8192, experts = 8;
  Routed tokens("grap_cosine > top_k(1) > top_capacity(factor(0.6)) > softmax", n, 512, experts),
      all("grap_cosine > all > top_capacity(factor(0.075)) > softmax", n, 512, experts);
  tokens.route();
  all.route();
  REQUIRE(tokens.routing.capacity == all.routing.capacity);
  int both = 0, chosen_by_any = 0;
  for (size_t t = 0; t < size_t(n); ++t) {
    const auto row = all.routing.chosen.begin() + ptrdiff_t(t * experts);
    both += row[tokens.routing.proposed[t]] >= 0;
    chosen_by_any += std::any_of(row, row + experts, [](int32_t e) { return e >= 0; });
  }
  const double want = 1 - std::pow(1 - double(all.routing.capacity) / n, experts);
  CHECK(want == doctest::Approx(0.464).epsilon(2e-3));
  CHECK(std::abs(double(both) / n - want) < 0.015);
  CHECK(std::abs(double(chosen_by_any) / n - want) < 0.015);
  CHECK(std::abs(kept_share(tokens) - 0.6) < 0.015);
}

// Channel 0 belongs to expert 0 and has the mean A.
void add_outlier(Routed& r, float mean) {
  for (int t = 0; t < r.rows; ++t) r.x[size_t(t * r.width)] += mean;
}

TEST_CASE("an outlier channel draws tokens to its expert, as many as the quadrature says") {
  const int n = 2000, width = 1024, experts = 8;  // A / sqrt(D / E) as at D = 4096 with twice the A
  for (const float mean : {5.0f, 15.0f, 25.0f, 50.0f}) {
    CAPTURE(mean);
    Routed r("grap_cosine > top_k(1) > all > softmax", n, width, experts);
    add_outlier(r, mean);
    r.route();
    // The outlier also lengthens the token, which scales all cosines and changes no choice.
    const double want = reference::outlier_share(double(mean) / std::sqrt(width / experts), experts);
    CHECK(std::abs(double(r.load(0)) / n - want) < 4 * std::sqrt(want * (1 - want) / n) + 0.003);
  }
}

TEST_CASE("an outlier channel leaves the load balanced once proposals are centred") {
  const std::string front = "grap_cosine(center=0.5) > top_k(1) > all > softmax";
  Routed plain(front, 4000, 128, 8), tilted(front, 4000, 128, 8);
  for (int step = 0; step < 8; ++step)
    for (Routed* r : {&plain, &tilted}) {
      r->x = reference::narrow(reference::random(4000 * 128, 1, uint64_t(step + 1)));
      if (r == &tilted) add_outlier(*r, 10);
      r->route();
      if (r == &tilted && step == 0) CHECK(largest_share(*r) > 0.7);
      r->update();
    }
  CHECK(largest_share(plain) < 0.145);
  CHECK(largest_share(tilted) < 0.17);
}

struct Chance {
  double mean = 0, error = 0;
};

// How often a marked token is kept by expert 0 among `n` tokens of two channels for each of 4 experts. Others are
// isotropic; the marked one has the given cosine with expert 0, or is one of them. Its place is random.
Chance success(const std::string& admit, int n, double cosine, int trials) {
  constexpr int kExperts = 4, kWidth = 8;
  Routed r("grap_cosine > top_k(1) > " + admit + " > softmax", n, kWidth, kExperts);
  base::Rng rng(11);
  int kept = 0;
  for (int trial = 0; trial < trials; ++trial) {
    for (float& v : r.x) v = rng.normal();
    const auto place = size_t(rng.below(uint64_t(n)));
    float* x = r.x.data() + place * kWidth;
    std::fill_n(x, kWidth, 0.0f);
    x[0] = x[1] = static_cast<float>(cosine / std::sqrt(2.0));  // and the rest where no expert averages it
    x[2] = static_cast<float>(std::sqrt((1 - cosine * cosine) / 2));
    x[3] = -x[2];
    r.route();
    kept += r.routing.chosen[place] == 0;
  }
  const double p = double(kept) / trials;
  return {p, std::sqrt(std::max(p * (1 - p), 1.0 / trials) / trials)};
}

// P(a random token of 8 channels goes to expert 0 and its cosine there is above `cosine`), by a large sample.
double outscored(double cosine) {
  Routed r("grap_cosine(kappa=1) > top_k(1) > all > softmax", 400000, 8, 4, 5);
  r.route();
  int count = 0;
  for (size_t t = 0; t < 400000; ++t) count += r.routing.proposed[t] == 0 && double(r.routing.score[4 * t]) > cosine;
  return count / 400000.0;
}

TEST_CASE("success of a marked token: both choices in turn, order alone, against the binomial sums") {
  const int n = 64, trials = 3000;
  for (const double cosine : {0.5, 0.7}) {
    const double r = outscored(cosine);
    for (const int c : {4, 8, 12}) {
      CAPTURE(cosine);
      CAPTURE(c);
      const std::string capacity = "(factor(" + std::to_string(c / 16.0) + "))";
      const Chance hybrid = success("top_capacity" + capacity, n, cosine, trials),
                   order = success("fifo" + capacity, n, cosine, trials);
      CHECK(std::abs(hybrid.mean - reference::hybrid_success(1, n, r, c)) < 4 * hybrid.error + 0.01);
      CHECK(std::abs(order.mean - reference::token_choice_success(1, n, 4, c)) < 4 * order.error);
    }
  }
}

TEST_CASE("success of a token that nothing marks: affinity keeps it as often as order does, the mean over its rank") {
  const int n = 64, trials = 400;
  for (const int c : {4, 8, 16}) {
    const std::string capacity = "(factor(" + std::to_string(c / 16.0) + "))";
    for (const std::string admit : {"top_capacity", "fifo"}) {
      Routed r("grap_cosine > top_k(1) > " + admit + capacity + " > softmax", n, 8, 4);
      base::Rng rng(12);
      double share = 0, square = 0;
      for (int trial = 0; trial < trials; ++trial) {
        for (float& v : r.x) v = rng.normal();
        r.route();
        share += kept_share(r) / trials;
        square += kept_share(r) * kept_share(r) / trials;
      }
      const double error = std::sqrt((square - share * share) / trials);
      CHECK(std::abs(share - reference::hybrid_success_mean(1, n, 4, c)) < 4 * error + 1e-5);
    }
  }
}

}  // namespace
}  // namespace choir::moe
