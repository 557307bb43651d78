#include "compress/refit.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "compress/linear.h"
#include "compress/repair_case.h"

namespace choir::compress {
namespace {

constexpr const char* kTopTwo = "linear > top_k(2) > all > chosen";
const std::vector<int> kKept{0, 2, 3, 5, 6};

TEST_CASE("linear: a factor solves what elimination by hand gives") {
  std::vector<double> a{4, 0, 0, 2, 5, 0, 1, 3, 6}, b{1, 2, 3};  // lower triangle of [[4,2,1],[2,5,3],[1,3,6]]
  REQUIRE(factorize(a, 3));
  solve(a, 3, b);
  CHECK(4 * b[0] + 2 * b[1] + b[2] == doctest::Approx(1));
  CHECK(2 * b[0] + 5 * b[1] + 3 * b[2] == doctest::Approx(2));
  CHECK(b[0] + 3 * b[1] + 6 * b[2] == doctest::Approx(3));
  std::vector<double> singular{1, 0, 1, 1}, none(4, 0.0);
  CHECK(!factorize(singular, 2));
  CHECK(!factorize(none, 2));
}

TEST_CASE("scalar refit: what it promises is what the scaled layer does, and no scale does better") {
  for (const GainPolicy policy : {GainPolicy::kReroute, GainPolicy::kDrop}) {
    const RepairCase c(kTopTwo, 8);
    std::vector<double> weight;
    for (int t = 0; t < RepairCase::kTokens; ++t) weight.push_back(1 + t % 2);
    const auto flags = flags_of(kKept, 8);
    const PolicyCase pruned{c.record, flags, policy, weight};
    const ScalarRefit refit = refit_scales(pruned, 1e-9);
    const Model base = c.kept(kKept, policy);
    std::vector<double> scale;
    for (const int e : kKept) scale.push_back(refit.scale[static_cast<size_t>(e)]);
    CHECK(refit.before == doctest::Approx(c.loss_of(base, weight)).epsilon(1e-6));
    CHECK(refit.after == doctest::Approx(c.loss_of(with_scales(base, 0, scale), weight)).epsilon(1e-6));
    CHECK(refit.after < refit.before);
    CHECK(refit.scale[1] == 1);
    for (size_t i = 0; i < scale.size(); ++i)
      for (const double step : {-1e-2, 1e-2}) {
        std::vector<double> other = scale;
        other[i] += step;
        CHECK(c.loss_of(with_scales(base, 0, other), weight) > refit.after);
      }
    const ScalarRefit stiff = refit_scales(pruned, 1e9);
    for (const double s : stiff.scale) CHECK(s == doctest::Approx(1).epsilon(1e-6));
  }
}

// With Q_ij = sum a_i a_j <f_i,f_j> and X the dropped: nothing done loses 1^T Q_XX 1, the best scales 1^T (Q_XX -
// Q_XR Q_RR^-1 Q_RX) 1.
TEST_CASE("scalar refit: where gains stay it reaches the Schur complement, and dropping costs the quadratic form") {
  const RepairCase c(kTopTwo, 8);
  const int n = 8;
  std::vector<double> q(64);
  for (int t = 0; t < RepairCase::kTokens; ++t) {
    const Choice own = own_choice(c.record, t);
    for (size_t i = 0; i < own.rank.size(); ++i)
      for (size_t j = 0; j < own.rank.size(); ++j)
        q[static_cast<size_t>(c.record.ranking(t)[static_cast<size_t>(own.rank[i])] * n +
                              c.record.ranking(t)[static_cast<size_t>(own.rank[j])])] +=
            own.gain[i] * own.gain[j] * c.record.product(t, own.rank[i], own.rank[j]);
  }
  const auto entry = [&](int i, int j) { return q[static_cast<size_t>(i * n + j)]; };
  const std::vector<int> dropped = others(kKept, n);
  double lost = 0;
  for (const int i : dropped)
    for (const int j : dropped) lost += entry(i, j);
  std::vector<double> rr, rx(kKept.size());
  for (size_t i = 0; i < kKept.size(); ++i) {
    for (const int j : kKept) rr.push_back(entry(kKept[i], j));
    for (const int j : dropped) rx[i] += entry(kKept[i], j);
  }
  std::vector<double> y = rx;
  REQUIRE(factorize(rr, static_cast<int>(kKept.size())));
  solve(rr, static_cast<int>(kKept.size()), y);
  double schur = lost;
  for (size_t i = 0; i < y.size(); ++i) schur -= rx[i] * y[i];
  const auto flags = flags_of(kKept, n);
  const ScalarRefit refit = refit_scales({c.record, flags, GainPolicy::kDrop}, 1e-12);
  CHECK(refit.before == doctest::Approx(lost).epsilon(1e-9));
  CHECK(refit.after == doctest::Approx(schur).epsilon(1e-6));
  CHECK(schur < lost);
}

// Expert 0 is three times expert 2. Without 0 and 1, whose keys are always behind, its tokens go to 2.
TEST_CASE("scalar refit: a scaled copy is repaired exactly") {
  const RepairCase c("linear > top_k(1) > all > chosen", 4, 1 << 20, [](TestModel& made) {
    copy_expert(made, 2, 0, 3);
    const tensor::Weight& gate = made.model->tensors().blocks[0].moe.gate[0];
    std::fill_n(numbers_in(gate) + 2 * 20, 2 * 20, 0.0f);  // equal keys: of 2 and 3 the lower number comes first
  });
  const auto flags = flags_of({2, 3}, 4);
  std::vector<double> weight;  // of the tokens that choose expert 0 alone
  for (int t = 0; t < RepairCase::kTokens; ++t) weight.push_back(c.record.ranking(t)[0] == 0);
  const ScalarRefit refit = refit_scales({c.record, flags, GainPolicy::kReroute, weight}, 1e-12);
  CHECK(refit.before > 1);
  CHECK(refit.scale[2] == doctest::Approx(3).epsilon(1e-5));
  CHECK(refit.after < 1e-6 * refit.before);
  const Model repaired = with_scales(c.kept({2, 3}, GainPolicy::kReroute), 0, std::vector<double>{3, 1});
  CHECK(c.loss_of(repaired, weight) < 1e-9 * refit.before);
}

TEST_CASE("scalar refit: a lambda of no use is refused") {
  const RepairCase c(kTopTwo, 8);
  const auto flags = flags_of(kKept, 8);
  for (const double lambda : {0.0, -1.0, std::nan("")})
    CHECK_THROWS_AS(refit_scales({c.record, flags}, lambda), base::Error);
}

}  // namespace
}  // namespace choir::compress
