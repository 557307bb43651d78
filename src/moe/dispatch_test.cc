#include "moe/dispatch.h"

#include <doctest/doctest.h>

#include "moe/reference/data.h"

namespace choir::moe {
namespace {

constexpr int kTokens = 70, kExperts = 5, kChoices = 3, kWidth = 11;

struct Problem {
  Plan plan;
  std::vector<int32_t> chosen = reference::random_choices(kTokens, kChoices, kExperts, 0.3, 1);
  std::vector<float> x = reference::narrow(reference::random(kTokens * kWidth, 1, 2)), rows;

  Problem() {
    build_plan(chosen, kTokens, kChoices, kExperts, plan);
    rows = reference::narrow(reference::random(static_cast<size_t>(plan.edges() * kWidth), 1, 3));
    plan.weight = reference::narrow(reference::random(static_cast<size_t>(plan.edges()), 1, 4));
  }

  std::vector<float> combined(Weighting weighting, int threads) const {
    base::Threads pool(threads);
    std::vector<float> y(x.size(), 5.0f);
    combine(plan, reference::matrix(rows, kWidth), weighting, Into::kSet, reference::matrix(y, kWidth), pool);
    return y;
  }
  std::vector<float> gathered(int threads) const {
    base::Threads pool(threads);
    std::vector<float> r(rows.size());
    gather(plan, reference::matrix(x, kWidth), reference::matrix(r, kWidth), pool);
    return r;
  }
};

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

TEST_CASE("dispatch: gather copies the row of each edge's token") {
  const Problem p;
  const auto rows = p.gathered(2);
  for (int i = 0; i < p.plan.edges(); ++i)
    for (int c = 0; c < kWidth; ++c) CHECK(rows[i * kWidth + c] == p.x[p.plan.token[i] * kWidth + c]);
}

TEST_CASE("dispatch: gather and combine are adjoint") {
  const Problem p;
  CHECK(dot(p.combined(Weighting::kPlain, 2), p.x) == doctest::Approx(dot(p.rows, p.gathered(2))).epsilon(1e-5));
}

TEST_CASE("dispatch: combine adds a token's edges in slot order") {
  const Problem p;
  for (const Weighting weighting : {Weighting::kPlain, Weighting::kByPlan}) {
    const auto y = p.combined(weighting, 2);
    for (int t = 0; t < kTokens; ++t)
      for (int c = 0; c < kWidth; ++c) {
        double sum = 0;
        for (int s = 0; s < kChoices; ++s)
          if (const int i = p.plan.edge[t * kChoices + s]; i >= 0)
            sum += static_cast<double>(p.rows[i * kWidth + c]) *
                   (weighting == Weighting::kByPlan ? static_cast<double>(p.plan.weight[i]) : 1.0);
        CHECK(std::abs(static_cast<double>(y[t * kWidth + c]) - sum) < 1e-5);
      }
  }
  // Three numbers whose float sum depends on the order: slots 0, 1, 2 hold 1e8, -1e8 and 1.
  Plan plan;
  build_plan({2, 1, 0}, 1, 3, 3, plan);
  const std::vector<float> rows{1, -1e8f, 1e8f};
  std::vector<float> y(1);
  base::Threads threads(1);
  combine(plan, reference::matrix(rows, 1), Weighting::kPlain, Into::kSet, reference::matrix(y, 1), threads);
  CHECK(y[0] == 1);
}

TEST_CASE("dispatch: a token without edges gets zeros, or keeps what it had") {
  Plan plan;
  build_plan({-1, 0}, 2, 1, 1, plan);
  const std::vector<float> rows{3};
  base::Threads threads(1);
  std::vector<float> y{7, 7};
  combine(plan, reference::matrix(rows, 1), Weighting::kPlain, Into::kAdd, reference::matrix(y, 1), threads);
  CHECK(y == std::vector<float>{7, 10});
  combine(plan, reference::matrix(rows, 1), Weighting::kPlain, Into::kSet, reference::matrix(y, 1), threads);
  CHECK(y == std::vector<float>{0, 3});
}

TEST_CASE("dispatch: the same bits for any number of threads, and for a token alone") {
  const Problem p;
  const auto one = p.combined(Weighting::kByPlan, 1);
  CHECK(p.combined(Weighting::kByPlan, 3) == one);
  CHECK(p.gathered(1) == p.gathered(3));
  base::Threads threads(1);
  for (int t = 0; t < kTokens; ++t) {
    Plan alone;
    build_plan({p.chosen.begin() + t * kChoices, p.chosen.begin() + (t + 1) * kChoices}, 1, kChoices, kExperts, alone);
    std::vector<float> rows(static_cast<size_t>(alone.edges() * kWidth)), y(kWidth);
    for (int s = 0; s < kChoices; ++s) {
      const int to = alone.edge[s], from = p.plan.edge[t * kChoices + s];
      if (to < 0) continue;
      std::copy_n(p.rows.begin() + from * kWidth, kWidth, rows.begin() + to * kWidth);
      alone.weight[to] = p.plan.weight[from];
    }
    combine(alone, reference::matrix(rows, kWidth), Weighting::kByPlan, Into::kSet, reference::matrix(y, kWidth),
            threads);
    CHECK(std::equal(y.begin(), y.end(), one.begin() + t * kWidth));
  }
}

}  // namespace
}  // namespace choir::moe
