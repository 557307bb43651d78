// Numbers and cases worked out by hand or printed, for the references of routing.
#include <doctest/doctest.h>

#include "moe/reference/binomial.h"
#include "moe/reference/capacity.h"
#include "moe/reference/data.h"
#include "moe/reference/losses.h"
#include "moe/reference/scores.h"
#include "moe/reference/selection.h"
#include "moe/reference/weights.h"

namespace choir::moe {
namespace {

using doctest::Approx;
using reference::Lists;
using reference::Order;
using reference::Take;
using Reals = std::vector<double>;
using Capacity = std::vector<int64_t>;
using Numbers = std::vector<int32_t>;

// `within`: half a unit of the last printed digit, and a little.
void check_close(const Reals& want, const Reals& got, double within = 6e-8) {
  REQUIRE(want.size() == got.size());
  for (size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(want[i] - got[i]) < within);
  }
}

const Reals kRow{1, 2, 3, 4, -1, 0, 1, 2};  // |x| = 6, block means 2.5 and 0.5

TEST_CASE("golden cosine: values and gradients of one token") {
  check_close({5.0 / 6, 1.0 / 6}, reference::grap_cosine(kRow, 8, 2, 1.0), 1e-15);
  const Reals z = reference::grap_cosine(kRow, 8, 2, std::sqrt(8.0));
  check_close({2.3570226, 0.4714045}, z);
  CHECK(reference::softmax(z)[0] == Approx(0.8682551).epsilon(1e-7));
  CHECK(reference::logsumexp(z) == Approx(2.4982923).epsilon(1e-7));
  check_close({0.0601852, 0.0370370, 0.0138889, -0.0092593, 0.0231481, 0, -0.0231481, -0.0462963},
              reference::grap_cosine_backward({1, 0}, kRow, 8, 2, 1));
  check_close({-0.0046296, -0.0092593, -0.0138889, -0.0185185, 0.0879630, 0.0833333, 0.0787037, 0.0740741},
              reference::grap_cosine_backward({0, 1}, kRow, 8, 2, 1));
  const auto learned = reference::grap_learned_backward({1, 0}, kRow, Reals(8, 0.25), 2, 1);
  check_close({-0.5, -1.0 / 6, 1.0 / 6, 0.5, 0, 0, 0, 0}, learned.w, 1e-14);
}

TEST_CASE("golden grap: block means, and blocks of unequal size") {
  CHECK(reference::grap(kRow, 8, 2, 0) == Reals{2.5, 0.5});
  check_close({0.8807971, 0.1192029}, reference::softmax(reference::grap(kRow, 8, 2, 0)));
  CHECK(reference::grap(Reals{1, 3, -1, -3}, 4, 2, 0.5) == Reals{2.5, 0});
  size_t begin = 0;
  for (size_t e = 0; e < 4; ++e) {
    const auto b = reference::block(e, 10, 4);
    CHECK(b.begin == begin);
    CHECK(b.end == std::vector<size_t>{2, 5, 7, 10}[e]);
    begin = b.end;
  }
}

struct Router {
  Reals x{1, 1, 0, 0, 2, 1, 2, 0, 4, 0, 0, 3, 1, 0, 2, 2, 2, 2, 1, 0, 0, 3, 4, 0};  // 6 tokens of 4 channels
  Reals delta = reference::grap_cosine(x, 4, 2, 1.0), z = reference::grap_cosine(x, 4, 2, 2.0);
  Lists proposed = reference::top_k(z, 2, 1);

  Reals weights(const Lists& kept) const { return reference::softmax_weights(z, {proposed, kept, 2, 1}); }
  // Checks offset, tokens and weights by expert.
  void check_edges(const Lists& kept, const Numbers& token, const Reals& weight) const {
    const auto edges = reference::edges_of(kept, 1, 2);
    CHECK(edges.offset == Numbers{0, 2, 4});
    CHECK(edges.token == token);
    CHECK(edges.slot == Numbers(4));
    for (size_t i = 0; i < weight.size(); ++i)
      CHECK(std::abs(weights(kept)[size_t(edges.token[i])] - weight[i]) < 6e-7);
  }
};

TEST_CASE("golden router: scores and proposals of six tokens") {
  const Router r;
  check_close(
      {1, 0, 0.707107, 0.471405, 0.565685, 0.424264, 0.235702, 0.942809, 0.942809, 0.235702, 0.424264, 0.565685},
      r.delta, 6e-7);
  const Reals p{0.880797, 0.615716, 0.570243, 0.195570, 0.804430, 0.429757};
  for (size_t t = 0; t < 6; ++t) CHECK(std::abs(reference::softmax(reference::row_of(r.z, t, 2))[0] - p[t]) < 6e-7);
  CHECK(r.proposed == Lists{0, 0, 0, 1, 0, 1});
}

TEST_CASE("golden router: who is admitted, and with which weight") {
  const Router r;
  const reference::Sizes sizes{6, 2, 1};
  CHECK(reference::factor_capacity(660, sizes) == 2);
  CHECK(reference::factor_capacity(1100, sizes) == 4);
  const Capacity two(2, 2), four(2, 4);
  CHECK(reference::top_capacity(r.proposed, r.delta, 1, four) == r.proposed);
  CHECK(reference::fifo(r.proposed, 1, four, Order::kTokenMajor) == r.proposed);
  r.check_edges(reference::top_capacity(r.proposed, r.delta, 1, two), {0, 4, 3, 5},
                {0.880797, 0.804430, 0.804430, 0.570243});
  r.check_edges(reference::fifo(r.proposed, 1, two, Order::kTokenMajor), {0, 1, 3, 5},
                {0.880797, 0.615716, 0.804430, 0.570243});
  r.check_edges(reference::top_capacity(r.proposed, r.delta, 1, two, Take::kWorst), {1, 2, 3, 5}, {});
  CHECK(reference::etr_sum(r.proposed, r.delta, 1, 2, 0.70) == Capacity{3, 2});
  CHECK(reference::etr_sum(r.proposed, r.delta, 1, 2, 0.76) == Capacity{3, 2});
  CHECK(reference::etr_sum(r.proposed, r.delta, 1, 2, 0.90) == Capacity{4, 2});
}

TEST_CASE("golden router: losses") {
  const Router r;
  check_close({4.0 / 6, 2.0 / 6}, reference::shares(r.proposed, 2), 1e-15);
  Reals mean(2);
  const Reals p = reference::softmax_rows(r.z, 2);
  for (size_t i = 0; i < p.size(); ++i) mean[i % 2] += p[i] / 6;
  check_close({0.582752, 0.417248}, mean, 6e-7);
  CHECK(std::abs(reference::load(r.z, r.proposed, {2}) - 1.055168) < 6e-7);
  CHECK(std::abs(reference::z_loss(r.z, 2, 1) - 3.785147) < 6e-7);
  const reference::Locality l{2, 2, {0, 0, 0, 1, 1, 1}, {0, 1}, 0.01};
  check_close({0.4975, 0.0025, 0.0025, 0.4975}, reference::local_target(l), 1e-15);
  check_close({0.344459, 0.155541, 0.238293, 0.261707}, reference::joint(p, l), 6e-7);
  CHECK(std::abs(reference::locality(r.z, l) - 1.433686) < 6e-7);
  const Reals hard = reference::hard_joint(r.proposed, l);
  check_close({0.5, 0, 1.0 / 6, 1.0 / 3}, hard, 1e-15);
  CHECK(std::abs(reference::divergence(hard, reference::local_target(l)) - 0.568973) < 6e-7);
}

TEST_CASE("golden load: below 1 when shares and probabilities are ordered against each other") {
  Reals z;
  Lists proposed;
  for (int t = 0; t < 100; ++t) {
    z.insert(z.end(), {t < 51 ? std::log(0.51 / 0.49) : -800.0, 0});
    proposed.push_back(t < 51 ? 0 : 1);
  }
  CHECK(reference::load(z, proposed, {2}) == Approx(0.9904).epsilon(1e-5));
}

TEST_CASE("golden capacity: factors are whole thousandths, which doubles are not") {
  CHECK(reference::factor_capacity(1100, {1024, 8, 1}) == 141);
  CHECK(reference::factor_capacity(660, {1024, 8, 1}) == 85);
  CHECK(reference::factor_capacity(1100, {400, 8, 1}) == 55);
  CHECK(std::ceil(1.1 * 50) == 56);
  std::vector<int> wrong;
  int wrong_at_066 = 0;
  for (int i = 1; i < 2000; ++i) {
    if (std::ceil(1.1 * i) != double(reference::factor_capacity(1100, {i, 1, 1}))) wrong.push_back(i);
    wrong_at_066 += std::ceil(0.66 * i) != double(reference::factor_capacity(660, {i, 1, 1}));
  }
  CHECK(wrong.size() == 112);
  wrong.resize(5);
  CHECK(wrong == std::vector<int>{50, 90, 100, 110, 170});
  CHECK(wrong_at_066 == 0);
}

TEST_CASE("golden capacity: clamp, tile, mean") {
  const reference::Sizes s{1024, 8, 1};
  CHECK(reference::clamp_and_tile(100, {0, 1100, 1}, s) == 100);
  CHECK(reference::clamp_and_tile(100.2, {0, 1100, 1}, s) == 101);
  CHECK(reference::clamp_and_tile(100, {0, 1100, 32}, s) == 128);
  CHECK(reference::clamp_and_tile(1e9, {0, 1100, 1}, s) == 141);
  CHECK(reference::clamp_and_tile(1e9, {0, 1100, 16}, s) == 144);
  CHECK(reference::clamp_and_tile(5, {500, 1100, 1}, s) == 64);
  CHECK(reference::clamp_and_tile(55, {0, 1100, 1}, {400, 8, 1}) == 55);
  CHECK(reference::effective_factor(144, s) == 1.125);
  CHECK(reference::capacity_mean(77, 77, 0.9) == 77);
  CHECK(reference::capacity_mean(100, 50, 0.9) == Approx(95));
}

TEST_CASE("golden etr_sum: monotone in tau, indifferent to the order of tokens, 0 without positive candidates") {
  const Reals delta = reference::random(40 * 4, 1, 3);
  const Lists proposed = reference::top_k(delta, 4, 2);
  Reals turned(delta.rbegin(), delta.rend());  // tokens and experts backwards
  const Lists turned_proposed = reference::top_k(turned, 4, 2);
  Capacity before(4);
  for (const double tau : {0.1, 0.5, 0.76, 0.9, 1.0}) {
    Capacity c = reference::etr_sum(proposed, delta, 2, 4, tau),
             back = reference::etr_sum(turned_proposed, turned, 2, 4, tau);
    std::reverse(back.begin(), back.end());
    CHECK(c == back);
    for (size_t e = 0; e < 4; ++e) CHECK(c[e] >= before[e]);
    before = c;
  }
  CHECK(reference::etr_sum({0, 0}, {-1, 2, 0, 2}, 1, 2, 0.76) == Capacity{0, 0});
}

TEST_CASE("golden angle bound: chances and the three forms of the least capacity") {
  const Reals wide{0.3174, 0.04549, 0.00269}, narrow{0.3211, 0.04459, 0.002085};
  for (int m = 1; m <= 3; ++m) {
    CHECK(reference::angle_chance(m / 64.0, 4096) == Approx(wide[size_t(m - 1)]).epsilon(2e-4));
    CHECK(reference::angle_chance(m / 8.0, 64) == Approx(narrow[size_t(m - 1)]).epsilon(2e-4));
  }
  const std::vector<Reals> rows{{0.02, 0.2836, 0.6234, 0.6232},   {0.03, 0.7902, 2.281, 2.279},
                                {0.05, 21.05, 91.59, 91.41},      {0.06, 201.7, 1030, 1027},
                                {0.07, 2923, 1.718e4, 1.712e4},   {0.08, 6.42e4, 4.273e5, 4.252e5},
                                {0.10, 1.086e8, 8.938e8, 8.871e8}};
  for (const Reals& row : rows) {
    CAPTURE(row[0]);
    CHECK(std::exp(reference::log_bound(row[0], 4096, 8)) == Approx(row[1]).epsilon(3e-4));
    const double z = reference::angle_exponent(row[0], 4096);
    CHECK(1 / (8 * std::erfc(std::sqrt(z))) == Approx(row[2]).epsilon(5e-4));
    CHECK(1 / (8 * reference::angle_chance(row[0], 4096)) == Approx(row[3]).epsilon(5e-4));
  }
  CHECK(std::exp(reference::log_bound(0.03, 5120, 16)) == Approx(0.63).epsilon(6e-3));
  check_close({0.0319, 0.0663, 0.0779},
              {reference::delta_of_bound(1, 4096, 8), reference::delta_of_bound(1024, 4096, 8),
               reference::delta_of_bound(32768, 4096, 8)},
              6e-5);
  CHECK(std::exp(reference::log_bound(reference::delta_of_bound(77, 4096, 8), 4096, 8)) == Approx(77));
}

TEST_CASE("golden bound: statistic of delta and the clamped capacity") {
  const Reals delta{0.1, -0.2, 0.3, 0.0, 0.2, 0.5, 0.0, 0.4};
  CHECK(reference::delta_statistic(delta, 2) == Reals{0.3, 0.5});
  CHECK(reference::delta_statistic(delta, 2, 0.75) == Reals{0.2, 0.4});
  CHECK(reference::bound_capacity({0.9, 0.1}, 1e6, {0, 1100, 1}, {1024, 8, 1}) == 141);
  CHECK(reference::bound_capacity({0.05, 0.03}, 4096, {0, 1100, 1}, {1024, 8, 1}) == 22);
  CHECK(reference::theory_capacity({0.01, 1 / 16.0}, {1024, 8, 1}) == 128);
}

TEST_CASE("golden success: first come, expert's choice and both, 1024 tokens, 8 experts") {
  const Reals chance{0.5, 0.1, 0.02, 0.005, 0.125};
  const std::vector<Reals> rows{
      {16, 0.125, 0, 0, 0.1316, 0.9999, 0}, {64, 0.5, 0, 0, 1, 1, 0}, {128, 0.967, 0, 0.9947, 1, 1, 0.4906}};
  for (const Reals& row : rows) {
    const int c = int(row[0]);
    CAPTURE(c);
    CHECK(std::abs(reference::token_choice_success(1, 1024, 8, c) - row[1]) < 6e-4);
    for (size_t i = 0; i < 4; ++i)
      CHECK(std::abs(reference::expert_choice_success(1024, chance[i], c) - row[i + 2]) < 6e-5);
    CHECK(std::abs(reference::hybrid_success(1, 1024, chance[4], c) - row[6]) < 6e-5);
    // A marked token that nothing marks is kept as often as by first come, first served.
    CHECK(reference::hybrid_success_mean(1, 1024, 8, c) ==
          Approx(reference::token_choice_success(1, 1024, 8, c)).epsilon(1e-6));
  }
  check_close({0.1250, 0.5000, 0.9670},
              {reference::hybrid_success_mean(1, 1024, 8, 16), reference::hybrid_success_mean(1, 1024, 8, 64),
               reference::hybrid_success_mean(1, 1024, 8, 128)},
              6e-5);
  CHECK(reference::token_choice_success(0.3, 1024, 8, 1024) == Approx(0.3));
  CHECK(reference::binomial_at_most(1, 3, 0.5) == Approx(0.5));
  CHECK(reference::binomial_at_most(-1, 3, 0.5) == 0);
}

TEST_CASE("golden quadrature: what tau keeps at normal scores, and where an outlier sends the tokens") {
  struct Row {
    int experts;
    double tau, mass, at_7, at_8, at_9;
  };
  for (const Row& r : {Row{8, 0.76, 0.761, 0.53, 0.65, 0.78}, Row{16, 0.71, 0.715, 0.58, 0.70, 0.83},
                       Row{64, 0.67, 0.671, 0.63, 0.74, 0.86}}) {
    CAPTURE(r.experts);
    CHECK(std::abs(reference::kept_share(r.tau, r.experts) - 0.6) < 0.006);
    CHECK(std::abs(reference::kept_mass(0.6, r.experts) - r.mass) < 6e-4);
    CHECK(reference::kept_share(reference::kept_mass(0.6, r.experts), r.experts) == Approx(0.6));
    CHECK(std::abs(reference::kept_share(0.7, r.experts) - r.at_7) < 5.1e-3);
    CHECK(std::abs(reference::kept_share(0.8, r.experts) - r.at_8) < 5.1e-3);
    CHECK(std::abs(reference::kept_share(0.9, r.experts) - r.at_9) < 5.1e-3);
  }
  CHECK(reference::outlier_share(0, 8) == Approx(1 / 8.0));
  check_close({0.22, 0.495, 0.77, 0.995},
              {reference::outlier_share(10 / std::sqrt(512), 8), reference::outlier_share(30 / std::sqrt(512), 8),
               reference::outlier_share(50 / std::sqrt(512), 8), reference::outlier_share(100 / std::sqrt(512), 8)},
              5.1e-3);
  CHECK(std::abs(reference::outlier_share(30 / std::sqrt(64), 64) - 0.90) < 5e-3);
}

TEST_CASE("selection: proposals") {
  CHECK(reference::top_k({1, 3, 3, 2}, 4, 3) == Lists{1, 2, 3});
  CHECK(reference::top_k({-HUGE_VAL, 1, -HUGE_VAL}, 3, 2) == Lists{1, -1});
  const Reals halves{std::log(0.5), std::log(0.25), std::log(0.125), std::log(0.125)};
  CHECK(reference::top_p(halves, 4, 0.4) == Lists{0, -1, -1, -1});
  CHECK(reference::top_p(halves, 4, 0.6) == Lists{0, 1, -1, -1});
  CHECK(reference::top_p(halves, 4, 0.9) == Lists{0, 1, 2, 3});
  CHECK(reference::mass({0.25, -1, 0.5, 0.25}, 4, 0.5) == Lists{2, -1, -1, -1});
  CHECK(reference::mass({0.25, -1, 0.5, 0.25}, 4, 0.75) == Lists{2, 0, -1, -1});
  CHECK(reference::mass({-1, -2, 0, -1}, 4, 0.5) == Lists(4, -1));
  CHECK(reference::positive({0, 2, -1, 3}, 4) == Lists{3, 1, -1, -1});
}

TEST_CASE("selection: groups by their best or by their two best") {
  const Reals z{9, 0, 5, 5, 6, 1};  // worth 9, 5, 6 or 9, 10, 7
  CHECK(reference::group_top_k(z, {6, 3, 1, false}, 2) == Lists{0, 1});
  CHECK(reference::group_top_k(z, {6, 3, 1, true}, 2) == Lists{2, 3});
  CHECK(reference::group_top_k(z, {6, 3, 2, false}, 3) == Lists{0, 4, 5});
  CHECK(reference::group_top_k(z, {6, 3, 2, true}, 3) == Lists{0, 2, 3});
  CHECK(reference::group_top_k(z, {6, 3, 3, true}, 3) == reference::top_k(z, 6, 3));
  CHECK(reference::group_top_k({-3, -1, -2, -2}, {4, 2, 1, false}, 2) == Lists{1, 0});  // removed means -infinity
}

TEST_CASE("selection: first come, first served by token or by slot") {
  const Lists proposed{0, 1, 1, 0, 0, 1};
  CHECK(reference::fifo(proposed, 2, {1, 2}, Order::kTokenMajor) == Lists{0, 1, 1, -1, -1, -1});
  CHECK(reference::fifo(proposed, 2, {2, 1}, Order::kTokenMajor) == Lists{0, 1, -1, 0, -1, -1});
  CHECK(reference::fifo(proposed, 2, {2, 1}, Order::kSlotMajor) == Lists{0, -1, 1, -1, 0, -1});
}

TEST_CASE("selection: capacity by key, ties and both ends; reroute; threshold") {
  const Lists proposed{0, 0, 0, 0};
  const Reals key{1, 0, 2, 0, 2, 0, 1, 0};
  CHECK(reference::top_capacity(proposed, key, 1, {1, 1}) == Lists{-1, 0, -1, -1});
  CHECK(reference::top_capacity(proposed, key, 1, {3, 1}) == Lists{0, 0, 0, -1});
  CHECK(reference::top_capacity(proposed, key, 1, {1, 1}, Take::kWorst) == Lists{0, -1, -1, -1});
  const Lists kept = reference::top_capacity(proposed, key, 1, {2, 1});
  CHECK(reference::reroute(kept, proposed, key, 1, {2, 1}) == Lists{1, 0, 0, -1});
  CHECK(reference::reroute({-1, 1}, {0, 1}, {3, 2, 1, 0}, 2, {5, 5, 5, 5}) == Lists{2, 1});  // not twice, not back
  CHECK(reference::threshold(proposed, key, 1, {2, 0}) == Lists{-1, 0, 0, -1});
}

TEST_CASE("selection: affinity keeps as many as first come, first served, and the largest sum") {
  const Reals delta = reference::random(60 * 5, 1, 3);
  const Lists proposed = reference::top_k(delta, 5, 2);
  const auto sum = [&](const Lists& kept) {
    double total = 0;
    for (size_t i = 0; i < kept.size(); ++i) total += kept[i] < 0 ? 0 : delta[i / 2 * 5 + size_t(kept[i])];
    return total;
  };
  const Capacity c(5, 15), all(5, 60);
  const Lists first = reference::fifo(proposed, 2, c, Order::kTokenMajor);
  const Lists best = reference::top_capacity(proposed, delta, 2, c);
  CHECK(reference::edges_of(first, 2, 5).offset == reference::edges_of(best, 2, 5).offset);
  CHECK(sum(best) > sum(first));
  CHECK(sum(first) > sum(reference::top_capacity(proposed, delta, 2, c, Take::kWorst)));
  CHECK(reference::top_capacity(proposed, delta, 2, all) == proposed);
  const Lists chosen = reference::expert_choice(delta, 5, 12), everyone = reference::top_k(delta, 5, 5);
  CHECK(reference::edges_of(chosen, 5, 5).offset == Numbers{0, 12, 24, 36, 48, 60});
  CHECK(reference::edges_of(reference::top_capacity(everyone, delta, 5, Capacity(5, 12)), 5, 5).token ==
        reference::edges_of(chosen, 5, 5).token);
}

TEST_CASE("selection: assignment, Sinkhorn and quantile balancing give equal loads") {
  const auto best = reference::exact_assignment({9, 8, 8, 1, 7, 5, 1, 0}, 2);  // the second token must go to expert 0
  CHECK(best.expert == Numbers{1, 0, 0, 1});
  CHECK(best.sum == 8 + 8 + 7 + 0);
  const Reals z = reference::random(40 * 4, 1, 5), shared = reference::sinkhorn(z, 4);
  Reals columns(4);
  for (size_t t = 0; t < 40; ++t) {
    double row = 0;
    for (size_t e = 0; e < 4; ++e) row += shared[t * 4 + e], columns[e] += shared[t * 4 + e];
    CHECK(row == Approx(1 / 40.0).epsilon(1e-3));
  }
  for (const double c : columns) CHECK(c == Approx(0.25).epsilon(1e-12));
  Reals tilted = z, beta(4), moved;
  for (size_t i = 0; i < z.size(); ++i) tilted[i] += i % 4 == 0 ? 2.0 : 0.0;
  for (int step = 0; step < 100; ++step) beta = reference::centred(reference::quantile_beta(tilted, beta, 1));
  for (size_t i = 0; i < z.size(); ++i) moved.push_back(tilted[i] - beta[i % 4]);
  for (const double f : reference::shares(reference::top_k(moved, 4, 1), 4)) CHECK(std::abs(f - 0.25) < 0.051);
  CHECK(reference::shares(reference::top_k(tilted, 4, 1), 4)[0] > 0.6);
}

}  // namespace
}  // namespace choir::moe
