#include "moe/score/projected_cosine.h"

#include "moe/admit/top_capacity.h"
#include "moe/parse.h"
#include "moe/reference/score.h"
#include "moe/reference/scores.h"

namespace choir::moe {
namespace {

using reference::widened;
constexpr int kTokens = 24, kWidth = 16, kExperts = 6, kRank = 5;

struct Problem {
  reference::Case c;
  Problem(double scale, double t) : c(kTokens, kWidth, kExperts, 1, scale) {
    c.fill_tensors(ProjectedCosineScore{kRank});
    c.tensor[2] = {static_cast<float>(t)};
  }
  reference::Projection<double> weights() const {
    return {widened(c.tensor[1]), widened(c.tensor[0]), static_cast<double>(c.tensor[2][0]), kRank};
  }
};

TEST_CASE("projected_cosine: texts, ranges, tensors") {
  reference::check_text<ProjectedCosineScore>({"projected_cosine", "projected_cosine(rank=8)"},
                                              {"projected_cosine(0)", "projected_cosine(1.5)"});
  const auto tensors = ProjectedCosineScore{kRank}.tensors(kExperts, kWidth);
  CHECK(tensors[0].deviation == 0.01f);
  CHECK(std::exp(static_cast<double>(tensors[2].initial)) == doctest::Approx(2));
  CHECK(tensors[2].vector);
}

TEST_CASE("projected_cosine: forward and backward agree with the reference, below and above the limit") {
  for (const double scale : {1e-3, 0.3, 1.0, 50.0})
    for (const double t : {-1.0, std::log(2.0), 4.6, 5.0}) {
      CAPTURE(scale);
      CAPTURE(t);
      Problem p(scale, t);
      const auto x = widened(p.c.x);
      CHECK(reference::error(reference::projected_cosine(x, p.weights()),
                             reference::score_of(ProjectedCosineScore{kRank}, p.c)) < 1e-5);
      const auto dz = reference::random(kTokens * kExperts, 1, 9);
      const auto want = reference::projected_cosine_backward(dz, x, p.weights());
      const auto got = reference::backward_of(ProjectedCosineScore{kRank}, p.c, reference::narrow(dz));
      CHECK(reference::error(want.x, got.x) < 1e-5);
      CHECK(reference::error(want.p, got.tensors[1]) < 1e-5);
      CHECK(reference::error(want.s, got.tensors[0]) < 1e-5);
      CHECK(std::abs(want.t - static_cast<double>(got.tensors[2][0])) < 1e-5 * (std::abs(want.t) + 1));
    }
}

TEST_CASE("projected_cosine: a zero token has score 0 and no gradient") {
  Problem p(1, 0.5);
  std::fill_n(p.c.x.begin() + kWidth, kWidth, 0.0f);
  const auto z = reference::score_of(ProjectedCosineScore{kRank}, p.c);
  for (int e = 0; e < kExperts; ++e) CHECK(z[kExperts + static_cast<size_t>(e)] == 0);
  const auto got = reference::backward_of(ProjectedCosineScore{kRank}, p.c, std::vector<float>(z.size(), 1.0f));
  for (int j = 0; j < kWidth; ++j) CHECK(got.x[kWidth + static_cast<size_t>(j)] == 0);
}

TEST_CASE("projected_cosine: admissions compare cosines") {
  Problem p(1, 3);
  const Router router = parse_router("projected_cosine(5) > top_k(2) > top_capacity(factor(0.5)) > softmax");
  const auto list = p.c.weights();
  router.route(p.c.context(list), Balancing::kOff, p.c.routing);
  CHECK(static_cast<double>(p.c.routing.scale) == doctest::Approx(std::exp(3.0)).epsilon(1e-6));
  base::Frame frame(p.c.threads);
  for (const float a : affinities(Affinity::kCosine, p.c.context(list), p.c.routing, frame))
    CHECK(std::abs(a) <= 1.00001f);
}

}  // namespace
}  // namespace choir::moe
